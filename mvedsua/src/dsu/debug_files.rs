//! Finds the symbols and the DWARF of a build: in the file itself, in a separate debug file (by
//! build-id or by name), and in the supplementary file that `dwz` makes.

use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use object::{Object as _, ObjectSection as _};

use super::dwarf::DebugInfo;
use super::error::DsuError;
use super::image::{Image, RawSymbol, hex, read_symbols};

/// Largest file that is read, in bytes: 4 GiB.
const LARGEST: u64 = 4 << 30;

/// A build with everything that is known about it.
#[derive(Debug)]
pub struct Build {
    /// The file's image.
    pub image: Image,
    /// Its symbols.
    pub symbols: Vec<RawSymbol>,
    /// What its DWARF says.
    pub debug: DebugInfo,
    /// Where symbols and DWARF came from.
    pub debug_path: PathBuf,
}

/// Where separate debug files are looked for.
#[derive(Clone, Debug)]
pub struct DebugSearch {
    /// Folders such as `/usr/lib/debug`.
    pub roots: Vec<PathBuf>,
    /// A file that the user named.
    pub named: Option<PathBuf>,
}

impl Default for DebugSearch {
    fn default() -> Self {
        Self {
            roots: vec![PathBuf::from("/usr/lib/debug")],
            named: None,
        }
    }
}

/// Reads a regular file completely.
///
/// # Errors
/// When it cannot be read, is not a regular file, or is larger than `limit` bytes.
pub fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>, DsuError> {
    let fail = |source| DsuError::Read {
        path: path.into(),
        source,
    };
    // O_NONBLOCK: a FIFO put there must not hang us before its type was looked at.
    let mut file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(fail)?;
    let meta = file.metadata().map_err(fail)?;
    if !meta.is_file() || meta.len() > limit {
        return Err(fail(std::io::Error::other(
            "not a regular file, or too large",
        )));
    }
    let mut data = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0));
    (&mut file)
        .take(limit)
        .read_to_end(&mut data)
        .map_err(fail)?;
    Ok(data)
}

impl Build {
    /// Reads a build and its debug information.
    ///
    /// # Errors
    /// When the file is not comparable, or its symbols or DWARF are nowhere to be found.
    pub fn load(path: &Path, search: &DebugSearch) -> Result<Self, DsuError> {
        let data = read_file(path, LARGEST)?;
        let image = Image::parse(path, &data)?;
        let mut looked = vec![path.to_owned()];

        let own_symbols = read_symbols(path, &data)?;
        if search.named.is_none() && !own_symbols.is_empty() && has_dwarf(&data) {
            let debug = load_dwarf(path, &data, search)?;
            return Ok(Self {
                image,
                symbols: own_symbols,
                debug,
                debug_path: path.into(),
            });
        }
        let id = hex(&image.build_id);
        let candidates: Vec<PathBuf> = match &search.named {
            Some(named) => vec![named.clone()],
            None => search
                .roots
                .iter()
                .filter(|_| id.len() > 2)
                .map(|root| {
                    root.join(".build-id")
                        .join(&id[..2])
                        .join(format!("{}.debug", &id[2..]))
                })
                .collect(),
        };
        for candidate in candidates {
            looked.push(candidate.clone());
            if search.named.is_none() && !candidate.exists() {
                continue;
            }
            let debug_data = read_file(&candidate, LARGEST)?;
            check_same_build(path, &image.build_id, &candidate, &debug_data)?;
            let mut symbols = read_symbols(&candidate, &debug_data)?;
            if symbols.is_empty() {
                symbols = own_symbols;
            }
            if symbols.is_empty() {
                return Err(missing(path, "symbol table", &looked));
            }
            if !has_dwarf(&debug_data) {
                return Err(missing(path, "DWARF", &looked));
            }
            let debug = load_dwarf(&candidate, &debug_data, search)?;
            return Ok(Self {
                image,
                symbols,
                debug,
                debug_path: candidate,
            });
        }
        Err(missing(
            path,
            if own_symbols.is_empty() {
                "symbol table"
            } else {
                "DWARF"
            },
            &looked,
        ))
    }
}

fn missing(path: &Path, what: &'static str, looked: &[PathBuf]) -> DsuError {
    let looked = looked
        .iter()
        .map(|p| p.display().to_string())
        .collect::<Vec<_>>()
        .join(", ");
    DsuError::NoDebug {
        path: path.into(),
        what,
        looked,
    }
}

fn has_dwarf(data: &[u8]) -> bool {
    object::File::parse(data).is_ok_and(|f| {
        f.section_by_name(".debug_info")
            .is_some_and(|s| s.size() > 0)
    })
}

fn check_same_build(path: &Path, id: &[u8], debug: &Path, data: &[u8]) -> Result<(), DsuError> {
    let mismatch = |reason: String| DsuError::DebugMismatch {
        path: path.into(),
        debug: debug.into(),
        reason,
    };
    let file = object::File::parse(data).map_err(|e| mismatch(e.to_string()))?;
    match file.build_id() {
        Ok(Some(other)) if other == id => Ok(()),
        Ok(Some(other)) => Err(mismatch(format!(
            "its build-id is {}, not {}",
            hex(other),
            hex(id)
        ))),
        _ => Err(mismatch("it has no build-id".into())),
    }
}

fn load_dwarf(path: &Path, data: &[u8], search: &DebugSearch) -> Result<DebugInfo, DsuError> {
    let fail = |reason: String| DsuError::Dwarf {
        path: path.into(),
        reason,
    };
    let file = object::File::parse(data).map_err(|e| fail(e.to_string()))?;
    let supplement = match file.gnu_debugaltlink().map_err(|e| fail(e.to_string()))? {
        None => None,
        Some((name, id)) => Some(find_supplement(path, name, id, search)?),
    };
    let supplement = match &supplement {
        None => None,
        Some(data) => {
            Some(object::File::parse(&**data).map_err(|e| fail(format!("its dwz file: {e}")))?)
        }
    };
    DebugInfo::parse(&file, supplement.as_ref()).map_err(fail)
}

/// `dwz` moves what several programs share into one file, linked by name and build-id.
fn find_supplement(
    path: &Path,
    name: &[u8],
    id: &[u8],
    search: &DebugSearch,
) -> Result<Vec<u8>, DsuError> {
    use std::os::unix::ffi::OsStrExt as _;
    let name = Path::new(std::ffi::OsStr::from_bytes(name));
    let id_hex = hex(id);
    let mut candidates = Vec::new();
    if let Some(folder) = path.parent() {
        candidates.push(folder.join(name));
        // A tree that was unpacked elsewhere: `<root>/usr/lib/debug/.build-id/xx/y.debug`.
        if let Some(file) = name.file_name() {
            for up in folder.ancestors().take(4) {
                candidates.push(up.join(".dwz/x86_64-linux-gnu").join(file));
                candidates.push(up.join(".dwz").join(file));
            }
        }
    }
    for root in &search.roots {
        if id_hex.len() > 2 {
            candidates.push(
                root.join(".build-id")
                    .join(&id_hex[..2])
                    .join(format!("{}.debug", &id_hex[2..])),
            );
        }
    }
    for candidate in &candidates {
        if !candidate.exists() {
            continue;
        }
        let data = read_file(candidate, LARGEST)?;
        if object::File::parse(&*data)
            .ok()
            .and_then(|f| f.build_id().ok().flatten().map(<[u8]>::to_vec))
            .as_deref()
            == Some(id)
        {
            return Ok(data);
        }
    }
    Err(missing(path, "supplementary DWARF (dwz)", &candidates))
}
