//! Encrypted images: the password is the key, and sectors are counted in the virtual disk.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use instar_crypto::luks::password;
use instar_crypto::qcow::{self, KEY_SECRET, Key, aes};
use instar_image::levels::LevelWriter;
use instar_image::write::{Encrypter, Piece, Placed};
use instar_image::{Error, OpenContext, Packed, Result, Source, Step, Unpacker};

use crate::packed::QcowUnpacker;

/// The key that the secret of that name is.
pub fn key(source: &dyn Source, secret: Option<&str>) -> Result<Key> {
    let crypter = aes(password(source, secret, KEY_SECRET)?)?;
    Ok(Key { crypter, in_file: false })
}

/// The key of an image, where its data is wanted.
pub fn read(cx: &OpenContext<'_, '_>, encrypted: bool) -> Result<Option<Key>> {
    qcow::check_format(cx, encrypted.then_some("aes"))?;
    if encrypted { qcow::open(cx) } else { Ok(None) }
}

/// Decompresses, and decrypts.
pub fn unpacker(key: Option<&Key>) -> Box<dyn Unpacker + '_> {
    let plain = QcowUnpacker::default();
    match key {
        Some(key) => Box::new(Decrypter { plain, key }),
        None => Box::new(plain),
    }
}

struct Decrypter<'a> {
    plain: QcowUnpacker,
    key: &'a Key,
}

impl Unpacker for Decrypter<'_> {
    fn unpack(&mut self, packed: &Packed, stored: &[u8], out: &mut [u8]) -> Result<()> {
        self.plain.unpack(packed, stored, out)
    }

    fn decrypt(&mut self, at: u64, offset: u64, data: &mut [u8]) -> Result<()> {
        self.key.decrypt(at, offset, data);
        Ok(())
    }
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
                    let mut data = vec![0; usize::try_from(len).unwrap_or(0)];
                    key.encrypt(here, offset, &mut data);
                    Placed::Owned { device, offset, data }
                }
                _ => return Err(Error::corrupt("a step that cannot be encrypted")),
            });
        }
        done += part;
    }
    Ok(())
}
