//! Hashes and ciphers of a text, in lower-case hexadecimal.

use std::fmt;

use aes_gcm::aead::consts::U12;
use aes_gcm::aead::{Aead, KeyInit, Nonce};
use aes_gcm::aes::Aes192;
use aes_gcm::{Aes128Gcm, Aes256Gcm, AesGcm};
use highwater_core::mapping::HashMethod;
use highwater_core::{Error, Result, Secret};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

const NONCE_BYTES: usize = 12;

/// How a value is hidden.
pub(super) enum Hiding {
    Hash(HashMethod),
    Encrypt(Cipher),
}

/// AES-GCM with a key.
pub(super) enum Cipher {
    Aes128(Box<Aes128Gcm>),
    Aes192(Box<AesGcm<Aes192, U12>>),
    Aes256(Box<Aes256Gcm>),
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cipher")
    }
}

impl Hiding {
    /// Appends what stands for the text. What fails says nothing of the text, and leaves `out` as
    /// it was.
    pub(super) fn hide(&self, text: &str, out: &mut String) -> Result<()> {
        match self {
            Self::Hash(method) => push_hash(*method, text, out),
            Self::Encrypt(cipher) => {
                let mut nonce = [0; NONCE_BYTES];
                getrandom::fill(&mut nonce).map_err(|error| {
                    Error::internal("There are no random numbers for encryption").caused_by(error)
                })?;
                let sealed = cipher.seal(&nonce, text.as_bytes())?;
                push_hex(&nonce, out);
                push_hex(&sealed, out);
            }
        }
        Ok(())
    }
}

impl Cipher {
    /// # Errors
    /// `Config` when the key is not 32, 48 or 64 hexadecimal digits.
    pub(super) fn new(key: &Secret) -> Result<Self> {
        let wrong = || {
            Error::config("The key is not 32, 48 or 64 hexadecimal digits")
                .hint("`openssl rand -hex 32` makes one; keep it in a variable: `key: ${KEY}`")
        };
        let bytes = bytes_of(key.expose()).ok_or_else(wrong)?;
        let made = match bytes.len() {
            16 => Aes128Gcm::new_from_slice(&bytes).ok().map(|c| Self::Aes128(Box::new(c))),
            24 => AesGcm::new_from_slice(&bytes).ok().map(|c| Self::Aes192(Box::new(c))),
            32 => Aes256Gcm::new_from_slice(&bytes).ok().map(|c| Self::Aes256(Box::new(c))),
            _ => None,
        };
        made.ok_or_else(wrong)
    }

    fn seal(&self, nonce: &[u8; NONCE_BYTES], text: &[u8]) -> Result<Vec<u8>> {
        fn seal<C: Aead<NonceSize = U12>>(
            cipher: &C,
            nonce: &[u8; NONCE_BYTES],
            text: &[u8],
        ) -> Option<Vec<u8>> {
            cipher.encrypt(&Nonce::<C>::from(*nonce), text).ok()
        }
        let sealed = match self {
            Self::Aes128(cipher) => seal(cipher.as_ref(), nonce, text),
            Self::Aes192(cipher) => seal(cipher.as_ref(), nonce, text),
            Self::Aes256(cipher) => seal(cipher.as_ref(), nonce, text),
        };
        sealed.ok_or_else(|| Error::data("The value is too long for encryption"))
    }
}

fn push_hash(method: HashMethod, text: &str, out: &mut String) {
    fn of<D: Digest>(text: &str, out: &mut String) {
        push_hex(&D::digest(text.as_bytes()), out);
    }
    match method {
        HashMethod::Md5 => of::<Md5>(text, out),
        HashMethod::Sha1 => of::<Sha1>(text, out),
        HashMethod::Sha224 => of::<Sha224>(text, out),
        HashMethod::Sha256 => of::<Sha256>(text, out),
        HashMethod::Sha384 => of::<Sha384>(text, out),
        HashMethod::Sha512 => of::<Sha512>(text, out),
    }
}

fn push_hex(bytes: &[u8], out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.reserve(2 * bytes.len());
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            out.push(char::from(DIGITS[usize::from(digit)]));
        }
    }
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let pairs = hex.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_that_everybody_computes() {
        let hash = |method, text: &str| {
            let mut out = String::new();
            Hiding::Hash(method).hide(text, &mut out).unwrap();
            out
        };
        for (method, expected) in [
            (HashMethod::Md5, "900150983cd24fb0d6963f7d28e17f72"),
            (HashMethod::Sha1, "a9993e364706816aba3e25717850c26c9cd0d89d"),
            (HashMethod::Sha224, "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7"),
            (
                HashMethod::Sha256,
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
            (HashMethod::Sha384, "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded163"),
            (HashMethod::Sha512, "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea2"),
        ] {
            assert!(hash(method, "abc").starts_with(expected), "{method}");
        }
        assert_eq!(hash(HashMethod::Sha384, "abc").len(), 96);
        assert_eq!(hash(HashMethod::Sha512, "abc").len(), 128);
        assert_eq!(HashMethod::ALL.len(), 6);
    }

    /// Test cases 1, 2, 7 and 13 of the specification of GCM: an empty text and a block of zeros.
    #[test]
    fn ciphertexts_are_those_of_aes_gcm() {
        for (key_bytes, text, expected) in [
            (16, 0, "58e2fccefa7e3061367f1d57a4e7455a"),
            (24, 0, "cd33b28ac773f74ba00ed1f312572435"),
            (32, 0, "530f8afbc74536b9a963b4f1c4cb738b"),
            (16, 16, "0388dace60b6a392f328c2b971b2fe78ab6e47d42cec13bdf53a67b21257bddf"),
        ] {
            let cipher = Cipher::new(&Secret::new("00".repeat(key_bytes))).unwrap();
            let mut out = String::new();
            push_hex(&cipher.seal(&[0; 12], &vec![0; text]).unwrap(), &mut out);
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn equal_texts_have_other_ciphertexts_that_can_be_read_again() {
        let key = "00112233445566778899aabbccddeeff0123456789abcdef0123456789ABCDEF";
        let hiding = Hiding::Encrypt(Cipher::new(&Secret::new(key)).unwrap());
        let mut texts = [String::new(), String::new()];
        for text in &mut texts {
            hiding.hide("hunter2", text).unwrap();
            assert_eq!(text.len(), 2 * (12 + 7 + 16));
            let bytes = bytes_of(text).unwrap();
            let nonce: [u8; 12] = bytes[..12].try_into().unwrap();
            let cipher = Aes256Gcm::new_from_slice(&bytes_of(key).unwrap()).unwrap();
            let plain = cipher.decrypt(&Nonce::<Aes256Gcm>::from(nonce), &bytes[12..]).unwrap();
            assert_eq!(plain, b"hunter2");
        }
        assert_ne!(texts[0], texts[1]);
    }

    #[test]
    fn a_key_that_is_none_is_refused_and_not_shown() {
        for key in ["", "00", "hunter2", "0011223344556677889900112233445", &"zz".repeat(16)] {
            let error = Cipher::new(&Secret::new(key)).unwrap_err();
            assert!(key.is_empty() || key == "00" || !error.full_message().contains(key));
        }
    }
}
