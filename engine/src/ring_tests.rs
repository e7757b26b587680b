//! The ring against a naive model, and a classic ring of random tokens as the baseline.

use super::*;
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};

fn equal(nodes: u16) -> Vec<(NodeId, u32)> {
    (0..nodes).map(|node| (NodeId(node), 1)).collect()
}

fn counts(ring: &Ring) -> BTreeMap<NodeId, u64> {
    let mut counts = BTreeMap::new();
    for owner in ring.owners() {
        *counts.entry(*owner).or_default() += 1;
    }
    counts
}

/// The fewest arcs that must move: tries every way to round the shares.
fn fewest_moves(arcs: u64, nodes: &[(NodeId, u32)], held: &BTreeMap<NodeId, u64>) -> u64 {
    let total = total_weight(nodes);
    let ways = 0_u32..1 << nodes.len();
    ways.filter_map(|rounded_up| {
        let mut sum = 0;
        let mut kept = 0;
        for (index, (node, weight)) in nodes.iter().enumerate() {
            let share = arcs * u64::from(*weight);
            let up = u64::from(rounded_up >> index & 1);
            if up == 1 && share.is_multiple_of(total) {
                return None;
            }
            let quota = share / total + up;
            sum += quota;
            kept += quota.min(held.get(node).copied().unwrap_or(0));
        }
        (sum == arcs).then_some(arcs - kept)
    })
    .min()
    .expect("some rounding adds up")
}

fn assert_shares(ring: &Ring) {
    let (arcs, total) = (ring.owners().len() as f64, total_weight(ring.nodes()));
    let counts = counts(ring);
    assert_eq!(counts.len(), ring.nodes().len(), "only members own arcs");
    for (node, weight) in ring.nodes() {
        let exact = arcs * f64::from(*weight) / total as f64;
        let off = (counts[node] as f64 - exact).abs();
        assert!(
            off < 1.0 && off <= exact / 100.0,
            "{node}: {off} off {exact}"
        );
    }
}

#[derive(Debug, Clone)]
enum Change {
    Add(u16, u32),
    Remove(u16),
    Reweight(u16, u32),
}

fn change() -> impl Strategy<Value = Change> {
    let (node, weight) = (0_u16..7, 1_u32..=10);
    prop_oneof![
        3 => (node.clone(), weight.clone()).prop_map(|(node, weight)| Change::Add(node, weight)),
        2 => node.clone().prop_map(Change::Remove),
        2 => (node, weight).prop_map(|(node, weight)| Change::Reweight(node, weight)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn every_change_keeps_the_shares_and_moves_the_fewest_arcs(
        changes in prop::collection::vec(change(), 1..12),
    ) {
        let mut ring = Ring::new(13, &[(NodeId(0), 3)]).unwrap();
        let mut members = BTreeMap::from([(NodeId(0), 3)]);
        for change in changes {
            let changed = match change {
                Change::Add(node, weight) => {
                    let changed = ring.with_node_added(NodeId(node), weight);
                    prop_assert_eq!(changed.is_err(), members.contains_key(&NodeId(node)));
                    members.entry(NodeId(node)).or_insert(weight);
                    changed
                }
                Change::Remove(node) => {
                    let changed = ring.with_node_removed(NodeId(node));
                    let is_member = members.contains_key(&NodeId(node));
                    prop_assert_eq!(changed.is_ok(), is_member && members.len() > 1);
                    if changed.is_ok() {
                        members.remove(&NodeId(node));
                    }
                    changed
                }
                Change::Reweight(node, weight) => {
                    let changed = ring.with_node_reweighted(NodeId(node), weight);
                    prop_assert_eq!(changed.is_ok(), members.contains_key(&NodeId(node)));
                    members.entry(NodeId(node)).and_modify(|old| *old = weight);
                    changed
                }
            };
            let Ok((next, moves)) = changed else { continue };
            prop_assert_eq!(next.epoch(), ring.epoch().next());
            prop_assert_eq!(next.nodes(), Vec::from_iter(members.clone()));
            assert_shares(&next);
            let expected: Vec<_> = (0_u32..)
                .zip(ring.owners().iter().zip(next.owners()))
                .filter(|(_, (from, to))| from != to)
                .map(|(arc, (from, to))| ArcMove { arc, from: *from, to: *to })
                .collect();
            prop_assert_eq!(&moves, &expected, "the moves are the difference of the tables");
            let fewest = fewest_moves(1 << 13, next.nodes(), &counts(&ring));
            prop_assert_eq!(moves.len() as u64, fewest);
            ring = next;
        }
    }

    #[test]
    fn the_owner_is_that_of_the_arc_at_the_position(key: Vec<u8>, arc_bits in 0_u32..=20) {
        let ring = Ring::new(arc_bits, &equal(1)).unwrap();
        // The naive way: walk the arcs by their width.
        let width = (1_u128 << 64) >> arc_bits;
        let arc = u128::from(position(&key)) / width;
        prop_assert_eq!(u128::from(ring.arc_of(&key)), arc);
        let two = Ring::new(10, &equal(2)).unwrap();
        prop_assert_eq!(two.owner(&key), two.owners()[two.arc_of(&key) as usize]);
    }

    #[test]
    fn a_table_reads_back(nodes in 1_u16..9, weight in 1_u32..5) {
        let mut members = equal(nodes);
        members[0].1 = weight;
        let ring = Ring::new(12, &members).unwrap();
        let read = Ring::from_table(ring.owners().to_vec(), ring.nodes(), ring.epoch()).unwrap();
        prop_assert_eq!(read, ring);
    }
}

#[test]
fn equal_nodes_grow_and_shrink_by_exactly_their_share() {
    for nodes in 1..=16_u16 {
        let ring = Ring::new(recommended_arc_bits(&[1; 16]), &equal(nodes)).unwrap();
        let (grown, moves) = ring.with_node_added(NodeId(nodes), 1).unwrap();
        assert!(moves.iter().all(|moved| moved.to == NodeId(nodes)));
        assert_eq!(moves.len(), grown.arcs_of_node(NodeId(nodes)).count());
        let (shrunk, moves) = grown.with_node_removed(NodeId(0)).unwrap();
        assert!(moves.iter().all(|moved| moved.from == NodeId(0)));
        assert_eq!(moves.len(), grown.arcs_of_node(NodeId(0)).count());
        assert_eq!(shrunk.epoch(), Epoch(3));
    }
}

#[test]
fn keys_are_spread_as_evenly_as_arcs() {
    const KEYS: u32 = 800_000;
    let ring = Ring::new(recommended_arc_bits(&[1; 4]), &equal(4)).unwrap();
    let mut counts = [0_u32; 4];
    for key in 0..KEYS {
        counts[usize::from(ring.owner(format!("user{key}").as_bytes()).0)] += 1;
    }
    let max = f64::from(*counts.iter().max().unwrap());
    assert!(max / f64::from(KEYS / 4) <= 1.01, "{counts:?}");
}

/// The largest share of the ring over the mean one, with `tokens` random tokens a node.
fn random_tokens_imbalance(nodes: u16, tokens: usize, seed: u64) -> f64 {
    let mut random = StdRng::seed_from_u64(seed);
    let mut ring: Vec<(u64, u16)> = (0..nodes)
        .flat_map(|node| vec![node; tokens])
        .map(|node| (random.random(), node))
        .collect();
    ring.sort_unstable();
    let mut shares = vec![0.0; usize::from(nodes)];
    let mut previous = ring.last().unwrap().0;
    for (token, node) in ring {
        shares[usize::from(node)] += token.wrapping_sub(previous) as f64;
        previous = token;
    }
    let mean = shares.iter().sum::<f64>() / f64::from(nodes);
    shares.into_iter().fold(0.0, f64::max) / mean
}

#[test]
fn equal_arcs_are_more_even_than_random_tokens() {
    let mean = |tokens| {
        let of_seed = |seed| random_tokens_imbalance(8, tokens, seed);
        (0..50).map(of_seed).sum::<f64>() / 50.0
    };
    assert!((1.12..1.20).contains(&mean(100)), "{}", mean(100));
    assert!((1.06..1.13).contains(&mean(256)), "{}", mean(256));
    let ring = Ring::new(recommended_arc_bits(&[1; 8]), &equal(8)).unwrap();
    let most = counts(&ring).into_values().max().unwrap();
    assert_eq!(most * 8, ring.owners().len() as u64);
}

#[test]
fn a_change_of_the_hash_would_be_noticed() {
    // The published vectors of MurmurHash3_x64_128 with seed 0, first word.
    assert_eq!(position(b""), 0);
    assert_eq!(position(b"hello"), 0xcbd8_a7b3_41bd_9b02);
    let fox = b"The quick brown fox jumps over the lazy dog";
    assert_eq!(position(fox), 0xe34b_bc7b_bc07_1b6c);
    // And what a directory depends on: where keys lie.
    let ring = Ring::new(10, &equal(4)).unwrap();
    assert_eq!(ring.arc_of(b"hello"), 0xcbd8 >> 6);
    assert_eq!(ring.owners()[..5], [0, 1, 2, 3, 0].map(NodeId));
}

#[test]
fn only_a_tag_that_has_bytes_is_hashed_alone() {
    assert_eq!(position(b"user{42}:name"), position(b"42"));
    assert_eq!(position(b"{42}"), position(b"42"));
    assert_eq!(position(b"a{42}{43}"), position(b"42"));
    assert_eq!(position(b"a{{42}}"), position(b"{42"));
    // Without a tag the whole key counts: these differ from the keys with the braces' contents.
    for whole in [&b"a{}{42}"[..], b"a{42", b"a}42{", b"{}"] {
        let mut bytes = whole;
        let hash = murmur3::murmur3_x64_128(&mut bytes, 0).unwrap();
        assert_eq!(position(whole), hash as u64);
    }
}

fn refusal(ring: Result<Ring>) -> String {
    ring.expect_err("these settings can't work").to_string()
}

#[test]
fn settings_that_cannot_work_are_refused_with_the_reason() {
    let refused = [
        (
            Ring::new(10, &[]),
            "nodes can't be none: a ring needs a node",
        ),
        (
            Ring::new(10, &[(NodeId(3), 1), (NodeId(3), 2)]),
            "node can't be 3: a node is a member once",
        ),
        (
            Ring::new(10, &[(NodeId(3), 0)]),
            "weight can't be 0 (of node 3): a weight is at least 1; remove a node that shall own nothing",
        ),
        (
            Ring::new(21, &equal(1)),
            "arcs can't be 2^21: at most 2^20 arcs are supported",
        ),
        (
            Ring::new(6, &equal(3)),
            "arcs can't be 2^6 (these nodes need 2^9): a node's share must be within 1 % of its weight; use more arcs or fewer nodes",
        ),
        (
            Ring::new(20, &[(NodeId(0), 1), (NodeId(1), u32::MAX)]),
            "arcs can't be 2^20: even 2^20 arcs can't keep these weights within 1 %; use fewer nodes or closer weights",
        ),
        (
            Ring::from_table(vec![NodeId(0); 3], &equal(1), Epoch(1)),
            "arcs can't be 3: the number of arcs is a power of two",
        ),
        (
            Ring::from_table(vec![NodeId(0), NodeId(1)], &equal(1), Epoch(1)),
            "ring table can't be node 1: an arc is owned by a node that is not a member",
        ),
    ];
    for (ring, reason) in refused {
        assert_eq!(refusal(ring), reason);
    }
    let ring = Ring::new(7, &equal(1)).unwrap();
    assert!(ring.with_node_removed(NodeId(0)).is_err());
    assert!(ring.with_node_added(NodeId(0), 1).is_err());
    assert!(ring.with_node_reweighted(NodeId(9), 1).is_err());
    assert!(ring.with_node_reweighted(NodeId(0), 0).is_err());
}

#[test]
fn the_number_of_arcs_that_is_named_or_recommended_works() {
    for nodes in [1, 2, 3, 7, 100, 1_000, 1_048] {
        let parts = u64::from(nodes);
        assert!(
            Ring::new(bits_for(parts).min(20), &equal(nodes)).is_ok(),
            "{nodes}"
        );
        let grown = u16::try_from(parts * ROOM_TO_GROW).unwrap();
        let recommended = recommended_arc_bits(&vec![1; usize::from(nodes)]);
        assert!(Ring::new(recommended, &equal(nodes)).is_ok());
        assert!(recommended == MAX_ARC_BITS || Ring::new(recommended, &equal(grown)).is_ok());
    }
    assert_eq!(recommended_arc_bits(&[1; MAX_NODES]), MAX_ARC_BITS);
}

/// The number of nodes alone was looked at, and the heavier of two asked for more.
#[test]
fn the_recommended_arcs_suit_unequal_weights() {
    for weights in [&[1, 100][..], &[100, 1, 1], &[7, 9, 500], &[1, 10_000]] {
        let nodes: Vec<_> = (0..).map(NodeId).zip(weights.iter().copied()).collect();
        let bits = recommended_arc_bits(weights);
        let ring = Ring::new(bits, &nodes);
        assert!(ring.is_ok(), "{weights:?} with 2^{bits} arcs: {ring:?}");
    }
    assert_eq!(recommended_arc_bits(&[5, 5]), recommended_arc_bits(&[1, 1]));
    // What can't be is refused by the ring, and not here.
    assert_eq!(recommended_arc_bits(&[1, u32::MAX]), MAX_ARC_BITS);
    assert!(recommended_arc_bits(&[]) > 0 && recommended_arc_bits(&[0]) > 0);
}
