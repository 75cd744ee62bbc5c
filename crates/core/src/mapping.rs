//! What a user wants done to the rows of a table before they are written.
//!
//! A mapping changes the table (its columns and keys) and its rows alike. One that cannot be done
//! to a table is an error of the plan; one that cannot be done to a row puts the row into the
//! quarantine, and never lets it pass unchanged (`highwater-engine`: `mappings`).

use serde::{Deserialize, Serialize};

use crate::secret::Secret;

/// One step.
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
    /// ciphertext and its tag of 16 bytes, in lower-case hexadecimal. NULL stays NULL.
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

/// What a row has to be like.
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
