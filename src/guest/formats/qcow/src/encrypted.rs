//! Encrypted images: the password is the key, and sectors are counted in the virtual disk.

use alloc::vec::Vec;

use instar_crypto::qcow::{self, Key};
use instar_image::levels::LevelWriter;
use instar_image::sealed::Placed;
use instar_image::write::Piece;
use instar_image::{Error, OpenContext, Result, Step};

/// The key of an image, where its data is wanted.
pub fn read(cx: &OpenContext<'_, '_>, encrypted: bool) -> Result<Option<Key>> {
    qcow::check_format(cx, encrypted.then_some("aes"))?;
    if encrypted { qcow::open(cx) } else { Ok(None) }
}

/// Places a piece, plain or, with a key, to be encrypted: then cluster by cluster, as each step has to tell its byte of
/// the disk.
pub fn place<'p>(
    clusters: &LevelWriter<'_>,
    key: Option<&Key>,
    at: u64,
    piece: Piece<'p>,
    steps: &mut Vec<Placed<'p>>,
) -> Result<()> {
    let Some(key) = key else { return clusters.place(at, piece, steps) };
    let cluster = clusters.levels().cluster;
    let len = piece.disk_len().ok_or_else(|| Error::unsupported("an encrypted image has no compressed clusters"))?;
    let mut done = 0;
    while done < len {
        let here = at + done;
        let part = (cluster - here % cluster).min(len - done);
        let piece = piece.part(done, part).ok_or_else(|| Error::corrupt("a piece shorter than it says"))?;
        let mut plain = Vec::new();
        clusters.place(here, piece, &mut plain)?;
        for step in plain {
            steps.push(match step {
                Placed::Step(Step::Write { device, offset, data }) => Placed::Plain { device, offset, at: here, data },
                Placed::Step(Step::Zero { device, offset, len, .. }) => {
                    Placed::sealed_zeroes(key, here, device, offset, len)
                }
                _ => return Err(Error::corrupt("a step that cannot be encrypted")),
            });
        }
        done += part;
    }
    Ok(())
}
