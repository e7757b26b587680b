//! What a directory was created with: the first manifest, the ring, and whether a builder asks for the same.

use crate::Builder;
use mailring_engine::{
    Error, Result,
    ids::{Incarnation, Lsn, NodeId},
    keyspaces::Keyspaces,
    manifest::{Manifest, NodeProgress, NodeSettings},
    ring::{MAX_NODES, Ring},
    ring_state::RingState,
};

pub(super) fn new_manifest(builder: &Builder) -> Result<Manifest> {
    let weights = builder.weights.clone().unwrap_or_else(|| vec![1; 4]);
    if !(1..=MAX_NODES).contains(&weights.len()) {
        return Err(Error::InvalidOption {
            option: "nodes",
            value: weights.len().to_string(),
            reason: "1 to 10,485 nodes are possible: each needs 100 of 2^20 arcs",
        });
    }
    let nodes: Vec<_> = (0u16..)
        .zip(&weights)
        .map(|(node, weight)| NodeSettings {
            node: NodeId(node),
            weight: *weight,
        })
        .collect();
    let arc_bits = builder.arc_bits_for(&weights);
    let members: Vec<_> = nodes.iter().map(|node| (node.node, node.weight)).collect();
    Ring::new(arc_bits, &members)?;
    Ok(Manifest {
        arc_bits: u8::try_from(arc_bits).unwrap_or(u8::MAX),
        progress: nodes
            .iter()
            .map(|node| NodeProgress {
                node: node.node,
                complete: Lsn(0),
                incarnation: Incarnation(0),
            })
            .collect(),
        nodes,
        next_keyspace: Keyspaces::new().next_id(),
        ..Manifest::default()
    })
}

/// Whether the builder asks for another number of arcs than the directory has.
pub(super) fn check_arcs(builder: &Builder, manifest: &Manifest) -> Result<()> {
    if let Some(requested) = builder.arc_bits
        && requested != u32::from(manifest.arc_bits)
    {
        return Err(Error::SettingsMismatch {
            setting: "arc_bits",
            directory: manifest.arc_bits.to_string(),
            requested: requested.to_string(),
        });
    }
    Ok(())
}

/// Whether the builder asks for other nodes than the directory has by now. While they are being changed, those of before
/// and those that will be are as good; and once they have changed, which the engine also does by itself when a node is lost,
/// so is as many as the directory was created with: the program that has made it shall open it.
pub(super) fn check_nodes(builder: &Builder, ring: &RingState) -> Result<()> {
    let Some(requested) = &builder.weights else {
        return Ok(());
    };
    let nodes = ring.ring().nodes();
    let first = ring.slots().iter().filter(|slot| slot.since == Lsn(0));
    if !ring.is_original() && requested.len() == first.count() {
        return Ok(());
    }
    let changing = ring.running().map(|running| {
        let members = &running.change.members[..];
        [members, &running.before[..]]
    });
    let known = changing.into_iter().flatten().chain([nodes]);
    let weights = |nodes: &[(NodeId, u32)]| nodes.iter().map(|(_, weight)| *weight).collect();
    if known
        .map(weights)
        .any(|weights: Vec<u32>| weights == *requested)
    {
        return Ok(());
    }
    let are_first = nodes.iter().map(|(node, _)| node.0).eq(0..len_of(nodes));
    let directory = if are_first {
        let weights: Vec<u32> = weights(nodes);
        format!("{weights:?}")
    } else {
        let named = nodes
            .iter()
            .map(|(node, weight)| format!("node {node}: {weight}"));
        named.collect::<Vec<_>>().join(", ")
    };
    Err(Error::SettingsMismatch {
        setting: "nodes and their weights",
        directory,
        requested: format!("{requested:?}"),
    })
}

fn len_of(nodes: &[(NodeId, u32)]) -> u16 {
    u16::try_from(nodes.len()).unwrap_or(u16::MAX)
}
