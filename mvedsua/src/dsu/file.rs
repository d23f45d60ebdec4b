//! The file: magic, version, length, digest, manifest.
//!
//! | offset | bytes | what |
//! | --- | --- | --- |
//! | 0 | 8 | `MVEDSUB\n` |
//! | 8 | 4 | format version, little-endian |
//! | 12 | 8 | length of the payload, little-endian |
//! | 20 | 32 | SHA-256 of the bytes 0..20 and the payload |
//! | 52 | | the payload: a [`Manifest`] in postcard's encoding |

use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::error::DsuError;
use super::manifest::Manifest;

const MAGIC: [u8; 8] = *b"MVEDSUB\n";
const HEADER: usize = 52;

/// The format version that this program writes and reads.
pub const VERSION: u32 = 2;

/// Largest bundle in bytes: 256 MiB.
pub const LARGEST: u64 = 256 << 20;

/// A bundle as it was read: checked, with its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// What it says.
    pub manifest: Manifest,
    /// SHA-256 over header and payload.
    pub digest: [u8; 32],
}

fn bad(what: &str, reason: impl Into<String>) -> DsuError {
    DsuError::BadBundle {
        what: what.into(),
        reason: reason.into(),
    }
}

fn digest(header: &[u8], payload: &[u8]) -> [u8; 32] {
    Sha256::new()
        .chain_update(header)
        .chain_update(payload)
        .finalize()
        .into()
}

impl Bundle {
    /// Wraps a manifest.
    ///
    /// # Errors
    /// When the manifest contradicts itself or is too large.
    pub fn new(manifest: Manifest) -> Result<Self, DsuError> {
        let bytes = encode(&manifest)?;
        let digest = bytes[20..HEADER].try_into().expect("32 bytes");
        Ok(Self { manifest, digest })
    }

    /// The bytes of the file.
    ///
    /// # Errors
    /// When the manifest contradicts itself or is too large.
    pub fn to_bytes(&self) -> Result<Vec<u8>, DsuError> {
        encode(&self.manifest)
    }

    /// Parses and checks the bytes of a file. Never panics, whatever the bytes are.
    ///
    /// # Errors
    /// When anything about it is not as it should be.
    pub fn parse(what: &str, bytes: &[u8]) -> Result<Self, DsuError> {
        let header = bytes
            .get(..HEADER)
            .ok_or_else(|| bad(what, "it is too short"))?;
        if header[..8] != MAGIC {
            return Err(bad(what, "it does not start like one"));
        }
        let found = u32::from_le_bytes(header[8..12].try_into().expect("4 bytes"));
        if found != VERSION {
            return Err(DsuError::Version {
                found,
                known: VERSION,
            });
        }
        let length = u64::from_le_bytes(header[12..20].try_into().expect("8 bytes"));
        let payload = &bytes[HEADER..];
        if length != payload.len() as u64 || length > LARGEST {
            return Err(bad(
                what,
                format!(
                    "it should have {length} bytes after its header and has {}",
                    payload.len()
                ),
            ));
        }
        let computed = digest(&header[..20], payload);
        if computed != header[20..HEADER] {
            return Err(bad(what, "its digest is wrong: it was damaged or changed"));
        }
        let (manifest, rest) =
            postcard::take_from_bytes::<Manifest>(payload).map_err(|e| bad(what, e.to_string()))?;
        if !rest.is_empty() {
            return Err(bad(what, "there is something after its end"));
        }
        manifest.check().map_err(|reason| bad(what, reason))?;
        Ok(Self {
            manifest,
            digest: computed,
        })
    }

    /// Opens and reads a bundle. The file is opened once, without following a link in its last
    /// component, and must be a regular file: what was checked is what is used.
    ///
    /// # Errors
    /// When it cannot be read or is no usable bundle.
    pub fn open(path: &Path) -> Result<Self, DsuError> {
        let fail = |source| DsuError::Read {
            path: path.into(),
            source,
        };
        let what = path.display().to_string();
        let mut file = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .map_err(fail)?;
        let meta = file.metadata().map_err(fail)?;
        if !meta.is_file() {
            return Err(bad(&what, "it is not a regular file"));
        }
        if meta.len() > LARGEST {
            return Err(bad(
                &what,
                format!("it is larger than {} MiB", LARGEST >> 20),
            ));
        }
        let mut bytes = Vec::new();
        (&mut file)
            .take(LARGEST + 1)
            .read_to_end(&mut bytes)
            .map_err(fail)?;
        Self::parse(&what, &bytes)
    }

    /// Writes the bundle beside `path` and renames it into place, so that no half-written bundle
    /// is ever seen.
    ///
    /// # Errors
    /// When it cannot be written, or there is a device or a folder.
    pub fn write(&self, path: &Path) -> Result<(), DsuError> {
        write_beside(path, &self.to_bytes()?)
    }
}

/// Writes a file beside `path` and renames it into place, so that no half-written one is ever seen.
///
/// # Errors
/// When it cannot be written, or there is a device or a folder.
pub(super) fn write_beside(path: &Path, bytes: &[u8]) -> Result<(), DsuError> {
    let fail = |source| DsuError::Write {
        path: path.into(),
        source,
    };
    // A rename would put a file in the place of `/dev/null`.
    let other = |meta: std::fs::Metadata| !meta.is_file() && !meta.is_symlink();
    if path.symlink_metadata().is_ok_and(other) {
        return Err(fail(std::io::Error::other("it exists and is no file")));
    }
    let mut name = path
        .file_name()
        .ok_or_else(|| fail(std::io::Error::other("not a file name")))?
        .to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&temporary)
        .map_err(fail)?;
    let written = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        // The error that matters is the first one.
        let _ = std::fs::remove_file(&temporary);
    }
    written.map_err(fail)
}

fn encode(manifest: &Manifest) -> Result<Vec<u8>, DsuError> {
    manifest
        .check()
        .map_err(|reason| bad("the new bundle", reason))?;
    let payload =
        postcard::to_stdvec(manifest).map_err(|e| bad("the new bundle", e.to_string()))?;
    if payload.len() as u64 > LARGEST {
        return Err(bad(
            "the new bundle",
            format!("it is larger than {} MiB", LARGEST >> 20),
        ));
    }
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    let sum = digest(&bytes, &payload);
    bytes.extend_from_slice(&sum);
    bytes.extend_from_slice(&payload);
    Ok(bytes)
}
