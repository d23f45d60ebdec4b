//! vsftpd: Debian's own program, and a next version of it.
//!
//! Debian has one version of vsftpd, and its source package is not served everywhere. So the next version is made
//! from the program: a few bytes of it are other ones, each a change that a new version could well have. What runs is
//! the stock program; its debug file is Debian's, too.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use mvedsua_tests::programs::{VSFTPD, VSFTPD_NEXT};
use mvedsua_tests::server::find_program;

use super::{Made, cached};

/// Changed when the recipe is: builds of another one are made again.
const RECIPE: &str = "2";

/// The package; its debug file and the bytes below are of this version.
const VERSION: &str = "3.0.3-13+b2";

/// Its build-id.
const BUILD_ID: [u8; 20] = [
    0x68, 0x59, 0x22, 0xfd, 0x01, 0x66, 0x20, 0x71, 0xe0, 0xe9, 0x0a, 0x0b, 0x95, 0x2e, 0x68, 0x4e,
    0x99, 0x18, 0x29, 0x35,
];

/// What the next version does otherwise: bytes of the program, and those that stand in their place.
const CHANGES: [(&[u8], &[u8]); 4] = [
    // It greets with its own number.
    (b"\0(vsFTPd 3.0.3)\0", b"\0(vsFTPd 3.0.5)\0"),
    // It knows a command that the old one does not, and does not know one that the old one does.
    (b"\0ALLO\0", b"\0AVBL\0"),
    // It writes times in its log otherwise, at any time: the month stands in the place of the day of the week, too.
    (b"\0%a %b!%d %H", b"\0%b %b!%d %H"),
    // And another number than its process id: after the call of `vsf_sysutil_getpid` it gives the one in `ebx` to
    // `str_append_ulong` (mov %rbx,%rdi; mov %eax,%esi).
    (
        b"\xe8\x1c\x8f\0\0\x48\x89\xdf\x89\xc6",
        b"\xe8\x1c\x8f\0\0\x48\x89\xdf\x89\xde",
    ),
];

/// Makes what is missing.
pub fn build() -> Result<()> {
    cached(&[VSFTPD, VSFTPD_NEXT], RECIPE, |debian, work| {
        let installed = find_program("vsftpd")
            .context("vsftpd is not installed: run `cargo xtask setup` first")?;
        let root = work.join("root");
        debian.download("vsftpd-dbg", VERSION, &work.join("package"), &root)?;
        let debug = root.join("usr/lib/debug");
        let program = fs::read(&installed)?;
        let symbols = fs::read(debug_file(&debug, &BUILD_ID))
            .with_context(|| format!("vsftpd-dbg {VERSION} has another debug file"))?;
        ensure!(
            occurrences(&program, &BUILD_ID) == 1,
            "the vsftpd that is installed is not Debian's {VERSION}"
        );

        // A program is known by its build-id.
        let mut next_id = BUILD_ID;
        next_id[0] ^= 0xff;
        let mut next = replaced(&program, &BUILD_ID, &next_id)?;
        for (old, new) in CHANGES {
            next = replaced(&next, old, new)?;
        }
        let next_debug = work.join("next-debug");
        write(
            &debug_file(&next_debug, &next_id),
            &replaced(&symbols, &BUILD_ID, &next_id)?,
        )?;
        let next_program = work.join("vsftpd-next");
        write(&next_program, &next)?;
        let made = |name, program: PathBuf, debug: PathBuf| Made {
            name,
            program,
            program_name: "vsftpd",
            debug: Some(debug),
        };
        Ok(vec![
            made(VSFTPD, installed, debug),
            made(VSFTPD_NEXT, next_program, next_debug),
        ])
    })
}

/// Where the debug file of a build is.
fn debug_file(root: &Path, build_id: &[u8]) -> PathBuf {
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
    let (folder, file) = (hex(&build_id[..1]), hex(&build_id[1..]));
    root.join(".build-id").join(folder).join(file + ".debug")
}

fn occurrences(bytes: &[u8], wanted: &[u8]) -> usize {
    bytes
        .windows(wanted.len())
        .filter(|window| *window == wanted)
        .count()
}

/// The bytes with `new` in the place of `old`, which is in it once and as long.
fn replaced(bytes: &[u8], old: &[u8], new: &[u8]) -> Result<Vec<u8>> {
    ensure!(
        old.len() == new.len() && occurrences(bytes, old) == 1,
        "{:?} is not in vsftpd {VERSION} once",
        String::from_utf8_lossy(old)
    );
    let mut changed = bytes.to_vec();
    if let Some(at) = bytes.windows(old.len()).position(|window| window == old) {
        changed[at..at + new.len()].copy_from_slice(new);
    }
    Ok(changed)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::create_dir_all(path.parent().context("it is in a folder")?)?;
    fs::write(path, bytes)?;
    Ok(fs::set_permissions(
        path,
        fs::Permissions::from_mode(0o755),
    )?)
}
