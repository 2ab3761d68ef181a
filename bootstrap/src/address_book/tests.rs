use super::*;

const OURS: Capabilities = Capabilities { ours: true, other_run: false, introduces: true, relays: false };
const OTHER_RUN: Capabilities = Capabilities { ours: false, other_run: true, introduces: true, relays: false };
const FOREIGN: Capabilities = Capabilities { ours: false, other_run: false, introduces: false, relays: false };

/// An address book with a clock that the test moves.
struct Desk {
    book: AddressBook,
    start: Instant,
    now: Instant,
    /// When all peers were last heard.
    heard: Option<Instant>,
    ids: usize,
}

impl Desk {
    fn new(role: Role) -> Self {
        let now = Instant::now();
        Self { book: AddressBook::new(PeerId::random(), role), start: now, now, heard: None, ids: 0 }
    }

    fn id(&mut self) -> ConnectionId {
        self.ids += 1;
        ConnectionId::new_unchecked(1_000_000 + self.ids)
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.book.poll_action()).collect()
    }

    fn tick(&mut self, after: Duration) -> Vec<Action> {
        self.now += after;
        let heard = self.heard;
        self.book.tick(self.now, |_| heard);
        self.actions()
    }

    fn dials(&mut self, after: Duration) -> Vec<DialOpts> {
        let is_dial = |action| if let Action::Dial(opts) = action { Some(opts) } else { None };
        self.tick(after).into_iter().filter_map(is_dial).collect()
    }

    /// A peer that dialled this node and was identified.
    fn come(&mut self, capabilities: Capabilities) -> (PeerId, ConnectionId) {
        let (peer, id) = (PeerId::random(), self.id());
        self.book.on_connected(self.now, peer, id, &tcp(9), false, None);
        self.book.on_identified(self.now, peer, capabilities, &[tcp(1), quic(1)]);
        (peer, id)
    }
}

fn tcp(port: u16) -> Multiaddr {
    format!("/ip4/10.0.0.1/tcp/{port}").parse().expect("a multiaddr")
}

fn quic(port: u16) -> Multiaddr {
    format!("/ip4/10.0.0.1/udp/{port}/quic-v1").parse().expect("a multiaddr")
}

fn ups(actions: &[Action]) -> usize {
    actions.iter().filter(|a| matches!(a, Action::Up(_))).count()
}

fn downs(actions: &[Action]) -> usize {
    actions.iter().filter(|a| matches!(a, Action::Down(_))).count()
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_peer_with_two_connections_is_up_once_and_down_after_the_last() {
    let mut desk = Desk::new(Role::Node);
    let (peer, first) = desk.come(OURS);
    let second = desk.id();
    desk.book.on_connected(desk.now, peer, second, &tcp(8), false, None);
    desk.book.on_identified(desk.now, peer, OURS, &[tcp(1)]);
    assert_eq!(ups(&desk.actions()), 1);
    desk.now += LONG;
    desk.book.on_closed(desk.now, peer, first);
    assert_eq!(downs(&desk.actions()), 0);
    desk.book.on_closed(desk.now, peer, second);
    let redial = match desk.actions().pop() {
        Some(Action::Dial(opts)) => opts,
        other => panic!("expected a redial, got {other:?}"),
    };
    desk.book.on_dial_failed(desk.now, redial.connection_id(), "refused");
    assert_eq!(downs(&desk.actions()), 1);
}

#[test]
fn a_broken_connection_that_is_redialled_is_no_news() {
    let mut desk = Desk::new(Role::Node);
    let (peer, id) = desk.come(OURS);
    desk.actions();
    desk.now += LONG;
    desk.book.on_closed(desk.now, peer, id);
    desk.actions();
    let again = desk.id();
    desk.book.on_connected(desk.now, peer, again, &tcp(1), true, None);
    desk.book.on_identified(desk.now, peer, OURS, &[tcp(1)]);
    let actions = desk.tick(REDIAL_TIMEOUT * 2);
    assert_eq!((ups(&actions), downs(&actions)), (0, 0));
    assert!(desk.book.is_up(peer));
}

#[test]
fn a_machine_that_is_gone_without_a_word_is_down_when_the_redial_takes_too_long() {
    let mut desk = Desk::new(Role::Node);
    let (peer, id) = desk.come(OURS);
    desk.now += LONG;
    desk.book.on_closed(desk.now, peer, id);
    desk.actions();
    assert_eq!(downs(&desk.tick(REDIAL_TIMEOUT / 2)), 0);
    assert_eq!(downs(&desk.tick(REDIAL_TIMEOUT)), 1);
}

/// A node that was up for a while, and was last heard just now.
fn heard_just_now() -> (Desk, PeerId, ConnectionId) {
    let mut desk = Desk::new(Role::Node);
    let (peer, id) = desk.come(OURS);
    desk.tick(LONG);
    desk.heard = Some(desk.now);
    (desk, peer, id)
}

/// What is done in a while, looked at ten times a second.
fn during(desk: &mut Desk, time: Duration) -> Vec<Action> {
    let step = Duration::from_millis(100);
    (0..time.as_millis() / step.as_millis()).flat_map(|_| desk.tick(step)).collect()
}

fn dials_in(actions: &[Action]) -> usize {
    actions.iter().filter(|a| matches!(a, Action::Dial(_))).count()
}

fn closes(actions: &[Action]) -> usize {
    actions.iter().filter(|a| matches!(a, Action::Close(_))).count()
}

#[test]
fn a_silent_peer_is_dialled_again_and_again_beside_its_connection() {
    let (mut desk, ..) = heard_just_now();
    let calm = during(&mut desk, SILENCE - Duration::from_millis(100));
    assert_eq!((dials_in(&calm), closes(&calm)), (0, 0));
    let silent = during(&mut desk, SILENCE_MAX - SILENCE);
    // None of the dials ends, and none holds the next one up.
    assert!((3..=5).contains(&dials_in(&silent)), "{silent:?}");
    assert_eq!((closes(&silent), downs(&silent)), (0, 0), "the old connection may still live");
}

#[test]
fn a_new_connection_replaces_silent_ones_and_no_others() {
    for (silent, replaced) in [(SILENCE, 1), (Duration::from_millis(500), 0)] {
        let (mut desk, peer, old) = heard_just_now();
        during(&mut desk, silent);
        let new = desk.id();
        desk.book.on_connected(desk.now, peer, new, &tcp(1), true, desk.heard);
        let actions = desk.actions();
        let is_old = |a: &&Action| matches!(a, Action::CloseOne(p, id) if (*p, *id) == (peer, old));
        assert_eq!(actions.iter().filter(is_old).count(), replaced);
        desk.heard = Some(desk.now);
        if replaced == 1 {
            desk.book.on_closed(desk.now, peer, old);
        }
        let actions = during(&mut desk, SILENCE - Duration::from_millis(100));
        assert_eq!((dials_in(&actions), downs(&actions)), (0, 0));
        assert!(desk.book.is_up(peer));
    }
}

#[test]
fn a_peer_is_down_when_its_connection_is_silent_and_dials_fail() {
    let (mut desk, peer, id) = heard_just_now();
    assert!(closes(&during(&mut desk, SILENCE_MAX)) > 0);
    desk.book.on_closed(desk.now, peer, id);
    assert!(desk.book.is_up(peer), "a redial may save it");
    desk.heard = None;
    assert_eq!(downs(&during(&mut desk, REDIAL_TIMEOUT)), 1);
}

#[test]
fn a_node_that_was_lost_a_moment_ago_is_dialled_every_second_or_two() {
    let (mut desk, peer, id) = heard_just_now();
    desk.book.on_closed(desk.now, peer, id);
    desk.heard = None;
    during(&mut desk, LONG);
    let actions = during(&mut desk, LONG);
    // Each hangs until the next is begun.
    assert!(dials_in(&actions) >= 35, "{}", dials_in(&actions));
}

#[test]
fn a_process_that_stood_still_does_not_take_its_own_silence_for_that_of_others() {
    let (mut desk, ..) = heard_just_now();
    let actions = desk.tick(LONG);
    assert_eq!((dials_in(&actions), closes(&actions)), (0, 0));
    let actions = during(&mut desk, SILENCE / 2);
    assert_eq!((dials_in(&actions), closes(&actions)), (0, 0));
}

#[test]
fn who_closes_at_once_is_not_redialled_in_a_loop() {
    let mut desk = Desk::new(Role::Node);
    let (peer, id) = desk.come(OURS);
    desk.actions();
    desk.book.on_closed(desk.now, peer, id);
    let actions = desk.actions();
    assert_eq!(downs(&actions), 1);
    assert!(!actions.iter().any(|a| matches!(a, Action::Dial(_))));
}

#[test]
fn waits_between_dials_double_up_to_a_bound_and_never_end_for_a_given_address() {
    let mut desk = Desk::new(Role::Node);
    let peer = PeerId::random();
    desk.book.keep(desk.now, &addresses::with_peer(&tcp(1), peer));
    let mut waits = Vec::new();
    let mut last = desk.now;
    while waits.len() < 2 * FAILURES_UNTIL_FORGOTTEN as usize {
        for opts in desk.dials(Duration::from_millis(50)) {
            waits.push(desk.now - last);
            last = desk.now;
            desk.book.on_dial_failed(desk.now, opts.connection_id(), "refused");
        }
        assert!(desk.now - desk.start < Duration::from_secs(3600), "the dials end after {waits:?}");
    }
    assert!(waits[1] >= BACK_OFF_MIN * 3 / 4 && waits[1] <= BACK_OFF_MIN * 3 / 2, "{waits:?}");
    assert!(waits[10..].iter().all(|w| *w >= BACK_OFF_MAX * 3 / 4 && *w <= BACK_OFF_MAX * 3 / 2), "{waits:?}");
}

#[test]
fn an_address_without_a_peer_is_dialled_until_it_answers_and_again_when_it_is_gone() {
    let mut desk = Desk::new(Role::Node);
    desk.book.keep(desk.now, &tcp(1));
    let opts = desk.dials(Duration::ZERO).pop().expect("a dial");
    assert_eq!(opts.get_peer_id(), None);
    let peer = PeerId::random();
    desk.book.on_connected(desk.now, peer, opts.connection_id(), &tcp(1), true, None);
    assert!(desk.dials(LONG).is_empty());
    desk.book.on_closed(desk.now, peer, opts.connection_id());
    assert!(!desk.dials(LONG).is_empty());
}

#[test]
fn tcp_is_dialled_first_and_quic_after_it_failed() {
    let mut desk = Desk::new(Role::Node);
    let peer = PeerId::random();
    desk.book.learn(desk.now, peer, &[quic(1), tcp(1)]);
    let contact = desk.book.contacts.get_mut(&peer).expect("learned");
    assert_eq!(contact.dial_addresses(), [tcp(1)]);
    contact.failures = 1;
    assert_eq!(contact.dial_addresses(), [quic(1)]);
}

#[test]
fn a_peer_that_never_answers_is_forgotten() {
    let mut desk = Desk::new(Role::Node);
    desk.book.learn(desk.now, PeerId::random(), &[tcp(1)]);
    for _ in 0..2 * FAILURES_UNTIL_FORGOTTEN {
        for opts in desk.dials(LONG) {
            desk.book.on_dial_failed(desk.now, opts.connection_id(), "refused");
        }
    }
    assert!(desk.book.contacts.is_empty());
}

#[test]
fn other_programs_are_left_at_once_and_other_runs_after_they_asked_the_way() {
    let mut desk = Desk::new(Role::Node);
    let (foreign, _) = desk.come(FOREIGN);
    assert!(desk.actions().iter().any(|a| matches!(a, Action::Close(peer) if *peer == foreign)));
    let (other, _) = desk.come(OTHER_RUN);
    let closes = |actions: Vec<Action>| actions.iter().any(|a| matches!(a, Action::Close(peer) if *peer == other));
    let actions = desk.actions();
    assert_eq!(ups(&actions), 0);
    assert!(!actions.iter().any(|a| matches!(a, Action::Introduce(_))));
    assert!(!closes(actions));
    assert!(closes(desk.tick(STRANGER_STAY)));
}

#[test]
fn who_never_says_what_it_is_is_closed() {
    let mut desk = Desk::new(Role::Node);
    let (peer, id) = (PeerId::random(), desk.id());
    desk.book.on_connected(desk.now, peer, id, &tcp(1), false, None);
    assert!(desk.tick(IDENTIFY_TIMEOUT).iter().any(|a| matches!(a, Action::Close(p) if *p == peer)));
}

#[test]
fn who_is_turned_away_is_down_at_once_and_not_dialled_for_a_while() {
    let mut desk = Desk::new(Role::Node);
    let (peer, id) = desk.come(OURS);
    desk.actions();
    desk.now += LONG;
    desk.book.turn_away(desk.now, peer);
    assert_eq!(downs(&desk.actions()), 1);
    desk.book.on_closed(desk.now, peer, id);
    assert!(desk.actions().is_empty(), "no redial");
    assert!(desk.dials(TURNED_AWAY_REST / 2).is_empty());
}

#[test]
fn an_older_record_does_not_replace_a_newer_one() {
    let mut desk = Desk::new(Role::Node);
    let peer = PeerId::random();
    desk.book.learn_signed(desk.now, peer, &[tcp(2)], 2);
    desk.book.learn_signed(desk.now, peer, &[tcp(1)], 1);
    assert_eq!(desk.book.addresses_of(peer), [tcp(2)]);
}

#[test]
fn an_address_that_worked_outlives_a_record_without_it() {
    let mut desk = Desk::new(Role::Node);
    let (peer, id) = (PeerId::random(), desk.id());
    desk.book.on_connected(desk.now, peer, id, &tcp(5), true, None);
    desk.book.learn_signed(desk.now, peer, &[tcp(1)], 1);
    assert_eq!(desk.book.addresses_of(peer), [tcp(1), tcp(5)]);
}

#[test]
fn addresses_of_loopback_are_for_those_who_were_met_there() {
    let on_loopback = |port: u16| format!("/ip4/127.0.0.1/tcp/{port}").parse::<Multiaddr>().expect("a multiaddr");
    let both = [tcp(1), on_loopback(1)];
    // Where it was met, and what is known of it then.
    for (remote, expected) in [(tcp(9), vec![tcp(1)]), (on_loopback(9), both.to_vec())] {
        let mut desk = Desk::new(Role::Node);
        let (peer, id) = (PeerId::random(), desk.id());
        desk.book.learn(desk.now, peer, &[on_loopback(1)]);
        assert_eq!(desk.book.addresses_of(peer), [on_loopback(1)], "it has no other");
        desk.book.on_connected(desk.now, peer, id, &remote, false, None);
        desk.book.on_identified(desk.now, peer, OURS, &both);
        assert_eq!(desk.book.addresses_of(peer), expected);
        desk.book.learn_signed(desk.now, peer, &both, 1);
        assert_eq!(desk.book.addresses_of(peer), expected);
    }
    let mut desk = Desk::new(Role::Node);
    let given = PeerId::random();
    desk.book.keep(desk.now, &addresses::with_peer(&on_loopback(1), given));
    desk.book.learn(desk.now, given, &[tcp(1)]);
    assert_eq!(desk.book.addresses_of(given), both);
}

#[test]
fn people_hear_of_a_failed_dial_once_a_cause_and_only_if_the_address_was_given() {
    let mut desk = Desk::new(Role::Node);
    desk.book.keep(desk.now, &addresses::with_peer(&tcp(1), PeerId::random()));
    desk.book.keep(desk.now, &tcp(2));
    desk.book.learn(desk.now, PeerId::random(), &[tcp(3)]);
    let mut told = 0;
    for _ in 0..100 {
        for opts in desk.dials(Duration::from_millis(100)) {
            told += usize::from(desk.book.on_dial_failed(desk.now, opts.connection_id(), "refused"));
        }
    }
    assert_eq!(told, 2);
}

#[test]
fn an_address_of_this_node_itself_is_not_dialled_again() {
    let mut desk = Desk::new(Role::Node);
    desk.book.keep(desk.now, &tcp(1));
    let opts = desk.dials(Duration::ZERO).pop().expect("a dial");
    desk.book.on_dialled_itself(opts.connection_id());
    assert!(desk.dials(LONG).is_empty());
}

#[test]
fn contacts_and_their_addresses_are_bounded_and_those_given_stay() {
    let mut desk = Desk::new(Role::Node);
    let given = PeerId::random();
    desk.book.keep(desk.now, &addresses::with_peer(&tcp(1), given));
    let many: Vec<Multiaddr> = (1..100).map(tcp).collect();
    for _ in 0..CONTACTS_MAX + 10 {
        desk.book.learn(desk.now, PeerId::random(), &many);
    }
    assert_eq!(desk.book.contacts.len(), CONTACTS_MAX);
    assert!(desk.book.contacts.values().all(|c| c.addresses.len() <= ADDRESSES_MAX));
    assert!(desk.book.contacts.contains_key(&given));
    assert!(desk.dials(Duration::ZERO).len() <= DIALS_MAX);
}

#[test]
fn a_bootstrap_dials_nobody_that_came_to_it() {
    let mut desk = Desk::new(Role::Bootstrap);
    let (peer, id) = desk.come(OTHER_RUN);
    desk.book.on_closed(desk.now + LONG, peer, id);
    assert!(desk.dials(LONG * 10).is_empty());
}

#[test]
fn nodes_that_are_known_by_hearsay_alone_leave_dials_for_those_that_were_met() {
    let mut desk = Desk::new(Role::Node);
    let given = PeerId::random();
    for _ in 0..CONTACTS_MAX - 1 {
        desk.book.learn(desk.now, PeerId::random(), &[tcp(1)]);
    }
    desk.book.keep(desk.now, &addresses::with_peer(&tcp(2), given));
    let dialled: Vec<Option<PeerId>> = desk.dials(LONG).iter().map(DialOpts::get_peer_id).collect();
    assert_eq!(dialled.len(), STRANGER_DIALS_MAX + 1);
    assert!(dialled.contains(&Some(given)), "whatever its place among the others");
}
