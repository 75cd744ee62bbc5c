//! What a user wants done to the rows of a table before they are written.
//!
//! A mapping changes the table (its columns and keys) and its rows alike. One that cannot be done
//! to a table is an error of the plan; one that cannot be done to a row puts the row into the
//! quarantine, and never lets it pass unchanged (`highwater-engine`: `mappings`).
//!
//! Conditions, hashes and ciphers work on the text of a value ([`crate::text`]). It does not depend
//! on the width of a type: 5 is `5` in every integer type, and a text is itself in every layout. The
//! scale of a decimal and the unit of a time are part of it: 12.5 is `12.50` with two places.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::secret::Secret;

/// One step. Steps are done in order: each one sees the columns as the ones before left them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mapping {
    /// The column gets another name.
    Rename {
        /// Its name.
        column: String,
        /// Its name afterwards.
        to: String,
    },
    /// The column is left out.
    Drop {
        /// Its name.
        column: String,
    },
    /// Rows for which the condition holds are kept, others are left out and counted.
    Filter(Condition),
    /// The text of each value is replaced by its hash, in lower-case hexadecimal. NULL stays NULL.
    Hash {
        /// The column; it is text afterwards.
        column: String,
        /// Its name afterwards.
        to: String,
        /// The hash function.
        method: HashMethod,
    },
    /// The text of each value is encrypted with AES-GCM: a random nonce of 12 bytes, the
    /// ciphertext and its tag of 16 bytes, in lower-case hexadecimal. NULL stays NULL. Equal values
    /// differ afterwards, so that a column of the primary key cannot be encrypted. A key is good
    /// for about 4 billion values: nonces may meet after that.
    Encrypt {
        /// The column; it is text afterwards.
        column: String,
        /// Its name afterwards.
        to: String,
        /// The key: 32, 48 or 64 hexadecimal digits (AES-128, -192, -256). Never serialised.
        #[serde(skip, default = "no_key")]
        key: Secret,
    },
}

/// A hash function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum HashMethod {
    #[serde(rename = "MD5")]
    Md5,
    #[serde(rename = "SHA-1")]
    Sha1,
    #[serde(rename = "SHA-224")]
    Sha224,
    #[serde(rename = "SHA-256")]
    Sha256,
    #[serde(rename = "SHA-384")]
    Sha384,
    #[serde(rename = "SHA-512")]
    Sha512,
}

impl HashMethod {
    /// Every method.
    pub const ALL: &'static [Self] =
        &[Self::Md5, Self::Sha1, Self::Sha224, Self::Sha256, Self::Sha384, Self::Sha512];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha1 => "SHA-1",
            Self::Sha224 => "SHA-224",
            Self::Sha256 => "SHA-256",
            Self::Sha384 => "SHA-384",
            Self::Sha512 => "SHA-512",
        }
    }
}

impl Mapping {
    /// What it does, in a word: its key in the configuration.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Rename { .. } => "rename",
            Self::Drop { .. } => "drop",
            Self::Filter(_) => "filter",
            Self::Hash { .. } => "hash",
            Self::Encrypt { .. } => "encrypt",
        }
    }
}

impl Condition {
    /// The columns that it is about.
    pub fn columns(&self) -> Vec<&str> {
        match self {
            Self::And(parts) | Self::Or(parts) => parts.iter().flat_map(Self::columns).collect(),
            Self::Not(part) => part.columns(),
            Self::Equal { column, .. } | Self::IsNull { column } => vec![column],
        }
    }
}

impl fmt::Display for HashMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a row has to be like. A condition is true or false, never unknown: what NULL is not equal
/// to satisfies `Not(Equal)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// All of them hold; true where there are none.
    And(Vec<Condition>),
    /// One of them holds; false where there are none.
    Or(Vec<Condition>),
    /// It does not hold.
    Not(Box<Condition>),
    /// The text form of the column's value is this; false for NULL.
    Equal {
        /// The column.
        column: String,
        /// The text.
        value: String,
    },
    /// The column is NULL.
    IsNull {
        /// The column.
        column: String,
    },
}

fn no_key() -> Secret {
    Secret::new("")
}
