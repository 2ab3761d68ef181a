//! A member that does everything as it should, but for the bytes: who asks it for a chunk gets another one's.

use std::sync::Arc;

use anyhow::Context;
use libp2p::multiaddr::Protocol;
use paceline::blobs::BlobStore;
use paceline::driver::{Driver, INPUTS_MAX, NodeState, Parts, Sources, input_of};
use paceline::learn::{Aggregator, ControlVariates, Plan, Trainer, TrainerContext};
use paceline::net::{BlobAnswer, BlobRequest, NetEvent, NetOptions, Network};
use paceline::report::NodeInfo;
use paceline::store::{Database, Home, Writer};
use paceline_model::Device;
use paceline_protocol::Identity;
use paceline_protocol::base::signed::Verifier;
use paceline_protocol::bounds::CHUNK_BYTES;
use paceline_protocol::chain::RunParams;
use paceline_protocol::machine::Config;
use tokio::sync::mpsc;

use crate::Attack;

/// See [`crate::Kind::Rubbish`], and [`crate::Kind::Member`], which does not lie.
pub(crate) async fn take_part(attack: Arc<Attack>, garbles: bool) -> anyhow::Result<()> {
    let name = if garbles { "rubbish" } else { "member" };
    let (run, secret) = (&attack.run, attack.noise(u64::MAX, 32));
    let identity: [u8; 32] = secret.try_into().ok().context("32 bytes were drawn")?;
    let plan = Plan::of(run)?;
    let home = Home::at(&attack.home);
    std::fs::create_dir_all(home.dir())?;
    let data = plan.data(None, None)?;
    let blobs = Arc::new(BlobStore::open(&home.blobs())?);
    let initial_model = blobs.put(&plan.initial_state(&plan.drawn_weights()?))?;
    let me = Identity::from_secret(&identity).node_id();
    let database = Arc::new(Database::open(&home.database(), run.run_id(), me)?);
    let recovered = database.recover(blobs.whole())?;
    let (events_in, mut events) = mpsc::channel(1024);
    let (lies_in, lies) = mpsc::channel(1024);
    let (inputs_in, inputs) = mpsc::channel(INPUTS_MAX);
    let (_commands_in, commands) = mpsc::channel(1);
    let options = NetOptions {
        identity,
        run: run.published(),
        listen: vec!["/ip4/0.0.0.0/tcp/0".parse()?],
        bootstrap: attack.targets.iter().map(|t| t.address.clone().with(Protocol::P2p(t.peer))).collect(),
        mdns: false,
        known: vec![],
        ports: Default::default(),
    };
    let network = Network::start(options, events_in).await?;
    let liar = attack.clone();
    tokio::spawn(async move {
        let mut n = 0;
        while let Some(event) = events.recv().await {
            match event {
                NetEvent::BlobRequested { request: BlobRequest::Chunk { .. }, answer, .. } if garbles => {
                    n += 1;
                    liar.tally.sent(CHUNK_BYTES as usize);
                    let _ = answer.send(BlobAnswer::Chunk(liar.noise(n, CHUNK_BYTES as usize)));
                }
                event => drop(lies_in.send(event).await),
            }
        }
    });
    let config = Config {
        params: RunParams::of(run, plan.formats.learned(run, initial_model)),
        identity: Identity::from_secret(&identity),
        name: name.to_owned(),
        part: None,
        pinned: None,
        resumes: false,
        verifier: Verifier::default(),
    };
    let (written_in, written) = mpsc::channel(INPUTS_MAX);
    let writer = Writer::start(database, move |write| drop(written_in.blocking_send(write)));
    let context = TrainerContext {
        learner: Arc::new(plan.learner(data, Device::Cpu)),
        formats: plan.formats,
        seed: plan.seed,
        blobs: blobs.clone(),
        controls: ControlVariates::at(home.controls()),
        lr_place: String::new(),
    };
    let (progress_in, progress) = tokio::sync::watch::channel(Default::default());
    let tell = inputs_in.clone();
    let trainer =
        Trainer::start(context, (1, 10), progress_in, move |outcome| drop(tell.blocking_send(input_of(outcome))))?;
    let tell = inputs_in.clone();
    let told = move |input| drop(tell.blocking_send(input));
    let aggregator = Aggregator::start(plan.formats, blobs.clone(), told);
    let info = NodeInfo::of(run, config.identity.node_id(), &config.name, None);
    let node_state = Arc::new(NodeState::new(info, vec![], progress));
    let driver = Driver::new(Parts {
        config,
        recovered,
        network,
        blobs,
        writer,
        trainer,
        aggregator,
        state: plan.formats.state,
        node_state,
        home,
        hours: None,
        keep_updates: run.round.keep_updates as usize,
        base: None,
        judged: (Default::default(), vec![]),
        inputs: inputs_in,
    });
    let sources = Sources { heard: vec![], net: lies, inputs, written, commands };
    driver.run(sources, tokio::time::sleep_until(attack.until.into()), |_| false).await?;
    Ok(())
}
