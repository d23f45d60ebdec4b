//! Bundles and rule files as the agent takes them: a bundle is code that will run in somebody's server, and
//! rules say what it may do there unnoticed.
//!
//! The file is opened once, without following a link in any part of its path, must be a regular file
//! that nobody but root and the agent's user can write, and is read into memory once. Digest,
//! signature and contents are checked on those bytes, and those bytes are what is used: what becomes
//! of the file afterwards does not matter.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use minisign_verify::{Error, Signature};

use super::error::DsuError;
use super::file::{Bundle, LARGEST};
use crate::sys::open;

/// Largest key or signature file in bytes.
const SMALL: u64 = 64 << 10;

/// Largest rule file in bytes: what the rule language takes.
const LARGEST_TEXT: u64 = 4 << 20;

/// Who must have signed: the public half of a minisign key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    key: minisign_verify::PublicKey,
    line: String,
}

impl PublicKey {
    /// Reads the text of a public key file, or its base64 line alone.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(text: &str) -> Result<Self, DsuError> {
        let text = text.trim();
        // The first line of a file is a comment.
        let line = text.lines().nth(1).unwrap_or(text).trim();
        match minisign_verify::PublicKey::from_base64(line) {
            Ok(key) => Ok(Self {
                key,
                line: line.into(),
            }),
            Err(error) => Err(DsuError::BadKey {
                what: "the public key".into(),
                reason: error.to_string(),
            }),
        }
    }

    /// Reads a public key file. It decides which code may run, so the same is asked of it as of a
    /// bundle: no links, and nobody else can write it.
    ///
    /// # Errors
    /// When it cannot be read, others can write it, or it is no key.
    pub fn load(path: &Path) -> Result<Self, DsuError> {
        let bytes = read_bytes(path, SMALL)?;
        let text = String::from_utf8_lossy(&bytes);
        Self::parse(&text).map_err(|error| match error {
            DsuError::BadKey { reason, .. } => DsuError::BadKey {
                what: path.display().to_string(),
                reason,
            },
            other => other,
        })
    }

    /// The base64 line that stands for the key on a command line or in a request.
    #[must_use]
    pub fn line(&self) -> &str {
        &self.line
    }
}

/// Reads a bundle that is to be applied. Every key in `keys` must have signed it; the signature is in
/// a file of its own beside it, `U.mvu.minisig`, as `mvedsua bundle sign` and `minisign -S` write it.
///
/// # Errors
/// When the file cannot be trusted (a link, no regular file, others can write it), is not signed as it
/// must be, or is no usable bundle.
pub fn read(path: &Path, keys: &[PublicKey]) -> Result<Bundle, DsuError> {
    let what = path.display().to_string();
    let bytes = read_bytes(path, LARGEST)?;
    if !keys.is_empty() {
        let file = signature_path(path);
        let text = match read_bytes(&file, SMALL) {
            Ok(text) => text,
            Err(DsuError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Err(DsuError::NotSigned {
                    what,
                    reason: format!("there is no {}", file.display()),
                });
            }
            Err(error) => return Err(error),
        };
        for key in keys {
            verify(&bytes, &String::from_utf8_lossy(&text), key).map_err(|reason| {
                DsuError::NotSigned {
                    what: what.clone(),
                    reason,
                }
            })?;
        }
    }
    Bundle::parse(&what, &bytes)
}

/// Reads a rule file that an update is to go by, under the same conditions.
///
/// # Errors
/// When the file cannot be trusted or read, or is no UTF-8.
pub fn read_text(path: &Path) -> Result<String, DsuError> {
    String::from_utf8(read_bytes(path, LARGEST_TEXT)?).map_err(|_| DsuError::Read {
        path: path.into(),
        source: std::io::Error::other("it is no UTF-8"),
    })
}

/// Where the signature of a bundle is.
#[must_use]
pub fn signature_path(bundle: &Path) -> PathBuf {
    let mut name = bundle.as_os_str().to_owned();
    name.push(".minisig");
    name.into()
}

fn verify(bytes: &[u8], signature: &str, key: &PublicKey) -> Result<(), String> {
    let signature = Signature::decode(signature)
        .map_err(|error| format!("its signature cannot be read: {error}"))?;
    key.key
        .verify(bytes, &signature, false)
        .map_err(|error| match error {
            Error::UnexpectedKeyId => format!("it is signed by another key than {}", key.line),
            other => format!("its signature is wrong: {other}"),
        })
}

/// The whole of a file that only root and the agent's user can write.
fn read_bytes(path: &Path, largest: u64) -> Result<Vec<u8>, DsuError> {
    let untrusted = |reason: String| DsuError::Untrusted {
        path: path.into(),
        reason,
    };
    if !path.is_absolute() {
        return Err(untrusted("its path is not absolute".into()));
    }
    let mut file = open::without_links(path).map_err(|error| {
        if error.raw_os_error() == Some(libc::ELOOP) {
            return untrusted("it, or a folder on its path, is a symbolic link".into());
        }
        DsuError::Read {
            path: path.into(),
            source: error,
        }
    })?;
    let fail = |source| DsuError::Read {
        path: path.into(),
        source,
    };
    let meta = file.metadata().map_err(fail)?;
    if !meta.is_file() {
        return Err(untrusted("it is not a regular file".into()));
    }
    let own = nix::unistd::geteuid().as_raw();
    if meta.uid() != 0 && meta.uid() != own {
        return Err(untrusted(format!(
            "it belongs to user {}, not to root",
            meta.uid()
        )));
    }
    if meta.mode() & 0o022 != 0 {
        return Err(untrusted(format!(
            "others than its owner can write it (mode {:o}); chmod go-w",
            meta.mode() & 0o7777
        )));
    }
    let mut bytes = Vec::new();
    (&mut file)
        .take(largest + 1)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    if bytes.len() as u64 > largest {
        return Err(untrusted(format!("it is larger than {largest} bytes")));
    }
    Ok(bytes)
}
