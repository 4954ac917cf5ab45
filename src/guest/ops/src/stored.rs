//! How the images of a chain tell of what they store, for the commands that show it.

use alloc::vec::Vec;

use instar_image::chain::Chain;
use instar_image::runs::RunMap;
use instar_image::{Machine, Mapping, Result, Run};

/// Each layer's way, and the runs of its file where its holes show.
pub struct Stored<'a>(Vec<(Mapping, Option<RunMap<'a>>)>);

impl<'a> Stored<'a> {
    /// Of a chain.
    pub fn of(machine: &'a dyn Machine, chain: &Chain<'_>) -> Result<Self> {
        let mut layers = Vec::new();
        for layer in &chain.layers {
            let mapping = layer.image.mapping()?;
            let len = machine.stat(layer.device)?.len;
            let runs = (mapping == Mapping::Holes).then(|| RunMap::new(machine.source(), layer.device, len));
            layers.push((mapping, runs));
        }
        Ok(Self(layers))
    }

    /// The way of layer `depth`.
    pub fn mapping(&self, depth: usize) -> Mapping {
        self.0.get(depth).map_or(Mapping::Extents, |(mapping, _)| *mapping)
    }

    /// The run at byte `offset` of the file of layer `depth`, where holes show.
    pub fn hole(&self, depth: usize, offset: u64) -> Result<Option<Run>> {
        match self.0.get(depth) {
            Some((_, Some(runs))) => runs.run(offset).map(Some),
            _ => Ok(None),
        }
    }
}
