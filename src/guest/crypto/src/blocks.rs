//! The block ciphers behind one interface: whole blocks, as many as possible at a time.

use alloc::boxed::Box;

use aes::{Aes128, Aes192, Aes256};
use cast5::Cast5;
use cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, BlockSizeUser, KeyInit};
use serpent::Serpent;
use twofish::Twofish;

use crate::Algorithm;

/// A cipher with its key. `data` is made of whole blocks; each is changed by itself.
pub trait Blocks: Send + Sync {
    /// Encrypts.
    fn encrypt(&self, data: &mut [u8]);
    /// Decrypts.
    fn decrypt(&self, data: &mut [u8]);
}

struct Keyed<C>(C);

impl<C: BlockSizeUser + BlockCipherEncrypt + BlockCipherDecrypt + Send + Sync> Blocks for Keyed<C> {
    fn encrypt(&self, data: &mut [u8]) {
        self.0.encrypt_blocks(Array::slice_as_chunks_mut(data).0);
    }

    fn decrypt(&self, data: &mut [u8]) {
        self.0.decrypt_blocks(Array::slice_as_chunks_mut(data).0);
    }
}

fn boxed<C>(key: &[u8]) -> Option<Box<dyn Blocks>>
where
    C: KeyInit + BlockSizeUser + BlockCipherEncrypt + BlockCipherDecrypt + Send + Sync + 'static,
{
    let cipher = C::new_from_slice(key).ok()?;
    Some(Box::new(Keyed(cipher)))
}

/// The cipher with that key; `None`: the key has no length that it can have.
pub fn keyed(algorithm: Algorithm, key: &[u8]) -> Option<Box<dyn Blocks>> {
    if !algorithm.key_sizes().contains(&key.len()) {
        return None;
    }
    match (algorithm, key.len()) {
        (Algorithm::Aes, 16) => boxed::<Aes128>(key),
        (Algorithm::Aes, 24) => boxed::<Aes192>(key),
        (Algorithm::Aes, _) => boxed::<Aes256>(key),
        (Algorithm::Serpent, _) => boxed::<Serpent>(key),
        (Algorithm::Twofish, _) => boxed::<Twofish>(key),
        (Algorithm::Cast5, _) => boxed::<Cast5>(key),
    }
}
