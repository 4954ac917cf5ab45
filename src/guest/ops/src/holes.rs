//! Holes of the file below that show, where the stock tool takes an image for preallocated.

use alloc::vec::Vec;

use instar_image::chain::Chain;
use instar_image::runs::RunMap;
use instar_image::{Machine, Result, Run};

/// For each layer whose file's holes show: the file's runs.
pub struct Holes<'a>(Vec<Option<RunMap<'a>>>);

impl<'a> Holes<'a> {
    /// Of a chain.
    pub fn of(machine: &'a dyn Machine, chain: &Chain<'_>) -> Result<Self> {
        let mut layers = Vec::new();
        for layer in &chain.layers {
            let shown = layer.image.shows_holes()?;
            let len = machine.stat(layer.device)?.len;
            layers.push(shown.then(|| RunMap::new(machine.source(), layer.device, len)));
        }
        Ok(Self(layers))
    }

    /// The run at byte `offset` of the file of layer `depth`; `None`: there is only data.
    pub fn run(&self, depth: usize, offset: u64) -> Result<Option<Run>> {
        match self.0.get(depth) {
            Some(Some(runs)) => runs.run(offset).map(Some),
            _ => Ok(None),
        }
    }
}
