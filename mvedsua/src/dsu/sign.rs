//! Signing a bundle, on the machine of whoever answers for it.

use std::io::{Cursor, IsTerminal as _};
use std::path::{Path, PathBuf};

use minisign::{ErrorKind, SecretKey, SecretKeyBox};

use super::error::DsuError;
use super::file::{Bundle, write_beside};
use super::trusted::signature_path;

/// Signs the bundle at `path` with a minisign secret key; returns where the signature was written.
/// For a key with a password it is asked for on the terminal. What is signed is read once and must be a
/// bundle: nothing else is ever given our signature.
///
/// # Errors
/// When the bundle or the key cannot be read, the password is wrong, or the signature cannot be written.
pub fn sign(path: &Path, key: &Path) -> Result<PathBuf, DsuError> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|source| DsuError::Read {
            path: path.into(),
            source,
        })
    };
    let secret = secret_key(key, &String::from_utf8_lossy(&read(key)?))?;
    let bytes = read(path)?;
    let bundle = Bundle::parse(&path.display().to_string(), &bytes)?;
    let manifest = &bundle.manifest;
    let comment = format!(
        "mvedsua bundle {} -> {}",
        super::image::hex(&manifest.old.build_id),
        super::image::hex(&manifest.new.build_id)
    );
    let signature = minisign::sign(
        None,
        &secret,
        Cursor::new(&bytes),
        Some(&comment),
        Some("signature of a mvedsua bundle"),
    )
    .map_err(|error| bad_key(key, &error.to_string()))?;
    let place = signature_path(path);
    write_beside(&place, signature.to_string().as_bytes())?;
    Ok(place)
}

fn secret_key(path: &Path, text: &str) -> Result<SecretKey, DsuError> {
    let parse = || SecretKeyBox::from_string(text);
    let bad = |error: minisign::PError| bad_key(path, &error.to_string());
    // A key without a password says so in its head; only then nothing has to be asked.
    match parse().and_then(SecretKeyBox::into_unencrypted_secret_key) {
        Ok(key) => return Ok(key),
        // What `minisign -G -W` of Debian 12 writes: without the checksum that the library looks for.
        Err(error) if matches!(error.kind(), ErrorKind::Verify) => {
            return Err(bad_key(
                path,
                "it has neither a password nor a checksum; let minisign sign: minisign -S -s KEY -m FILE",
            ));
        }
        Err(_) => {}
    }
    if !std::io::stdin().is_terminal() {
        // Told before the library asks for a password that nobody can type.
        parse().map_err(bad)?;
        return Err(bad_key(
            path,
            "it is no secret key of minisign, or has a password and there is no terminal to ask for it",
        ));
    }
    parse()
        .and_then(|key| key.into_secret_key(None))
        .map_err(bad)
}

fn bad_key(path: &Path, reason: &str) -> DsuError {
    DsuError::BadKey {
        what: path.display().to_string(),
        reason: reason.into(),
    }
}
