//! A run of real processes with a hostile node among them that speaks the run's protocols and says what it likes. Every
//! piece of it is refused with its reason and counted, and the run ends as if nothing had happened.

mod cluster;

use std::time::Duration;

use cluster::{Cluster, shapes};
use paceline::blobs::Manifest;
use paceline::net::{BlobAnswer, BlobRequest, NetEvent, NetOptions, Network, Ports};
use paceline::run_file::RunFile;
use paceline_bootstrap::{Ticket, fresh_secret};
use paceline_protocol::base::signed::{Scope, Signed};
use paceline_protocol::message::{Body, Message};
use paceline_protocol::paxos::message::{Heartbeat, Message as Paxos, Phase, RoundOpened, RoundPlan, Task};
use paceline_protocol::record::{Contribution, Vote};
use paceline_protocol::round::message::Message as Work;
use paceline_protocol::sync::message::Message as Sync;
use paceline_protocol::{Ballot, Hash, Identity, NodeId};
use tokio::sync::mpsc;

/// What the hostile node knows of the run that it attacks.
struct Attack {
    me: Identity,
    run: RunFile,
    genesis: Hash,
    round: u64,
}

impl Attack {
    fn scope(&self) -> Scope {
        Scope { run: self.run.run_id(), chain: self.genesis, parent: self.genesis }
    }

    fn contribution(&self, samples: u64) -> Signed<Contribution> {
        let content = Contribution {
            round: self.round,
            samples,
            update: Manifest::of(&[0; 64]).blob(),
            train_loss: Some(f64::NAN),
            train_ms: 0,
            evaluation: None,
            trainer: String::new(),
        };
        Signed::new(&self.me, &self.scope(), content)
    }

    /// Messages that decode and must be refused.
    fn lies(&self) -> Vec<Message> {
        let chain = self.genesis;
        let me = self.me.node_id();
        let ballot = |attempt| Ballot { round: self.round, attempt };
        let paxos = |attempt, message| Message { chain, body: Body::Paxos { ballot: ballot(attempt), message } };
        let vote = Vote { ballot: ballot(3), candidate: me, accepted: None, silent: vec![] };
        let vote = Signed::new(&self.me, &self.scope(), vote);
        let task = Some(Task::Train { participants: vec![me] });
        let plan = RoundPlan { ballot: ballot(3), version: 1, task };
        let plan = Signed::new(&self.me, &self.scope(), plan);
        let opened = RoundOpened { votes: vec![vote.clone()], plan };
        let (made_up, proposal) = (Hash::of(b"made up"), Some(Hash::of(b"as well")));
        let heartbeat = Heartbeat { phase: Phase::Proposing, plan: made_up, proposal, progress: vec![] };
        let ready = Work::UpdateReady(self.contribution(1 << 40));
        vec![
            Message { chain, body: Body::Round { ballot: ballot(0), message: ready } },
            paxos(3, Paxos::Vote(vote)),
            paxos(u32::MAX, Paxos::VoteRequest),
            paxos(1, Paxos::PreVote),
            paxos(2, Paxos::Heartbeat(heartbeat)),
            paxos(3, Paxos::RoundOpened(opened)),
            paxos(0, Paxos::StepDown),
            Message { chain, body: Body::Sync(Sync::Records(vec![])) },
        ]
    }
}

/// Connects to the run and attacks every node that it meets, again and again.
async fn attack(attack: Attack, ticket: Ticket, secret: [u8; 32], stop: tokio::sync::oneshot::Receiver<()>) -> usize {
    let (events_in, mut events) = mpsc::channel(1024);
    let options = NetOptions {
        identity: secret,
        run: attack.run.published(),
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().expect("an address")],
        bootstrap: ticket.addresses,
        mdns: false,
        known: vec![],
        ports: Ports::new(),
    };
    let network = Network::start(options, events_in).await.expect("loopback works");
    let mut met: Vec<NodeId> = Vec::new();
    let mut attacks = 0;
    let mut ticks = 0u8;
    let mut pause = tokio::time::interval(Duration::from_millis(300));
    tokio::pin!(stop);
    loop {
        tokio::select! {
            _ = &mut stop => return attacks,
            Some(event) = events.recv() => match event {
                NetEvent::PeerUp(peer) => met.push(peer),
                NetEvent::BlobRequested { answer, .. } => {
                    let _ = answer.send(BlobAnswer::Chunk(vec![7; 100]));
                }
                _ => {}
            },
            _ = pause.tick() => for peer in &met {
                attacks += 1;
                ticks = ticks.wrapping_add(1);
                // Now and then: more nonsense, and it is cut off before its lies are heard.
                if ticks % 64 < met.len() as u8 {
                    network.send(*peer, vec![0xFF; 999]);
                    network.send(*peer, vec![]);
                    network.broadcast(vec![ticks; 200]);
                }
                attack.lies().iter().for_each(|m| network.send(*peer, m.encode()));
                let unknown = BlobRequest::Chunk { blob: Hash::of(b"nothing"), index: u32::MAX };
                let answer = network.ask_blob(*peer, unknown, Duration::from_secs(2)).await;
                assert!(!matches!(answer, Ok(BlobAnswer::Chunk(_))), "there is no such chunk");
            },
        }
    }
}

#[test]
fn a_run_is_unharmed_by_a_node_that_says_what_it_likes() {
    let text = shapes(3, 6, 1_500, "shapes-cnn");
    let run = paceline::run_file::parse(&text, "run.toml").expect("it is sound");
    let mut cluster = Cluster::new(&text);
    cluster.start_all(3);
    cluster.wait("the founding", |c| (0..3).all(|i| c.round(i) >= 1).then_some(()));
    let status = cluster.status(0).expect("it runs");
    let genesis = status["genesis"].as_str().and_then(|g| g.parse().ok()).expect("a chain");
    let secret = fresh_secret();
    let facts = Attack { me: Identity::from_secret(&secret), run, genesis, round: 2 };
    let ticket: Ticket = cluster.ticket().parse().expect("the bootstrap's own");
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let attacker = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("threads");
        runtime.block_on(attack(facts, ticket, secret, stopped))
    });
    let refused = cluster.wait("refusals", |c| {
        let refused = c.status(0)?["refused"].as_object()?.clone();
        let enough = ["malformed message", "not on the roster"].iter().all(|r| refused.contains_key(*r));
        enough.then_some(refused)
    });
    println!("refused: {refused:?}");
    cluster.wait_for_end();
    let _ = stop.send(());
    let attacks = attacker.join().expect("the attacker's own assertions hold");
    assert!(attacks > 0);
    let rounds = cluster.rounds(0);
    assert_eq!(rounds.len(), 6);
    assert!(rounds.iter().all(|r| r["contributions"].as_array().is_some_and(|c| c.len() == 3)), "everybody took part");
}
