//! What a directory was created with: the first manifest, the ring, and whether a builder asks for the same.

use crate::Builder;
use mailring_engine::{
    Error, Result,
    ids::{Incarnation, Lsn, NodeId},
    keyspaces::Keyspaces,
    manifest::{Manifest, NodeProgress, NodeSettings},
    ring::Ring,
};

pub(super) fn new_manifest(builder: &Builder) -> Result<Manifest> {
    let weights = builder.weights.clone().unwrap_or_else(|| vec![1; 4]);
    let nodes: Vec<_> = (0u16..)
        .zip(&weights)
        .map(|(node, weight)| NodeSettings {
            node: NodeId(node),
            weight: *weight,
        })
        .collect();
    if weights.is_empty() || nodes.len() < weights.len() {
        return Err(Error::InvalidOption {
            option: "nodes",
            value: weights.len().to_string(),
            reason: "1 to 65,535 nodes are possible",
        });
    }
    let arc_bits = builder.arc_bits_for(nodes.len());
    let manifest = Manifest {
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
    };
    ring_of(&manifest)?;
    Ok(manifest)
}

/// The ring of a directory: from its table where nodes have moved, else from its settings.
pub(crate) fn ring_of(manifest: &Manifest) -> Result<Ring> {
    let nodes: Vec<_> = manifest
        .nodes
        .iter()
        .map(|node| (node.node, node.weight))
        .collect();
    match &manifest.arcs {
        Some(owners) => Ring::from_table(owners.clone(), &nodes, manifest.epoch),
        None => Ring::new(u32::from(manifest.arc_bits), &nodes),
    }
}

pub(super) fn check_settings(builder: &Builder, manifest: &Manifest) -> Result<()> {
    let weights: Vec<u32> = manifest.nodes.iter().map(|node| node.weight).collect();
    if let Some(requested) = &builder.weights
        && *requested != weights
    {
        return Err(Error::SettingsMismatch {
            setting: "nodes and their weights",
            directory: format!("{weights:?}"),
            requested: format!("{requested:?}"),
        });
    }
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
