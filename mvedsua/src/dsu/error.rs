//! What can go wrong when a bundle is built, read or planned. Codes are listed in `docs/errors.md`.

use std::path::PathBuf;

use serde::Serialize;

/// One thing that a bundle cannot carry safely: it names the symbol and the reason.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Blocker {
    /// Stable code, from `E410` on.
    pub code: &'static str,
    /// The function, variable or type it is about, as the source names it.
    pub symbol: String,
    /// Why it cannot be decided or carried, and what to do next.
    pub reason: String,
}

impl std::fmt::Display for Blocker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}: {}", self.code, self.symbol, self.reason)
    }
}

/// An error of the offline part of dynamic software updates.
#[derive(Debug, thiserror::Error)]
pub enum DsuError {
    /// A file could not be opened or read.
    #[error("E400: cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The file is not an x86-64 ELF executable that can be compared.
    #[error("E401: {} cannot be compared: {reason}", path.display())]
    NotComparable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A build has no build-id, so a running process could not be told to run exactly it.
    #[error("E402: {} has no build-id; link it with -Wl,--build-id", path.display())]
    NoBuildId {
        /// The file.
        path: PathBuf,
    },
    /// No symbols and no DWARF: neither in the file nor in a separate debug file.
    #[error(
        "E403: {} has no {what} and no separate debug file was found; looked at: {looked}; \
         install its debug symbols or name the file with --debug-old/--debug-new", path.display()
    )]
    NoDebug {
        /// The build.
        path: PathBuf,
        /// `symbol table` or `DWARF`.
        what: &'static str,
        /// Where it was looked for.
        looked: String,
    },
    /// A separate debug file belongs to another build.
    #[error("E404: {} does not belong to {}: {reason}", debug.display(), path.display())]
    DebugMismatch {
        /// The build.
        path: PathBuf,
        /// The debug file.
        debug: PathBuf,
        /// How this was seen.
        reason: String,
    },
    /// The DWARF could not be parsed.
    #[error("E405: the DWARF of {} cannot be read: {reason}", path.display())]
    Dwarf {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// Both builds are the same one.
    #[error("E406: both builds have build-id {build_id}: there is nothing to update")]
    SameBuild {
        /// The build-id in hexadecimal.
        build_id: String,
    },
    /// The builds differ in a way that no bundle can carry.
    #[error("E407: the builds cannot be bridged: {reason}")]
    Incompatible {
        /// In which way.
        reason: String,
    },
    /// The rule file for the bundle does not check.
    #[error("E408: the rules in {} do not check:\n{text}", path.display())]
    Rules {
        /// The file.
        path: PathBuf,
        /// The diagnostics.
        text: String,
    },
    /// At least one change cannot be carried. Every blocker is listed.
    #[error("E409: no bundle was written, {} thing(s) cannot be carried:\n{}", .0.len(),
        .0.iter().map(|b| format!("  {b}")).collect::<Vec<_>>().join("\n"))]
    Blocked(Vec<Blocker>),
    /// A transformer does not compile.
    #[error("E415: {} does not compile:\n{output}", path.display())]
    Compile {
        /// The transformer.
        path: PathBuf,
        /// What the compiler said.
        output: String,
    },
    /// A transformer's object holds what a bundle cannot carry.
    #[error("E414: {} cannot be used as a transformer: {reason}", path.display())]
    BadTransformer {
        /// The transformer.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A declared transformer leaves something open, or names what is not there.
    #[error("E416: {} declares no complete transformer: {reason}", path.display())]
    BadDeclaration {
        /// The declaration.
        path: PathBuf,
        /// What is open.
        reason: String,
    },
    /// The file is not a bundle, or is damaged, or too large.
    #[error("E450: {what} is no usable bundle: {reason}")]
    BadBundle {
        /// The path, or `bundle`.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// The bundle's format version is not the one that this program knows.
    #[error(
        "E451: bundle format version {found}, this program reads version {known}; build the bundle again"
    )]
    Version {
        /// In the file.
        found: u32,
        /// Known here.
        known: u32,
    },
    /// The bundle could not be written.
    #[error("E452: cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The file is not one that only root and the agent's user can write, so its code is not run.
    #[error("E453: {} is not trusted: {reason}", path.display())]
    Untrusted {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A signature is required, and this bundle's is missing, of another key, or wrong.
    #[error("E454: {what} is not signed as it must be: {reason}")]
    NotSigned {
        /// The bundle.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// A key of minisign cannot be used.
    #[error("E455: {what} is no usable minisign key: {reason}")]
    BadKey {
        /// The file, or `the public key`.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// An address of the plan is out of reach, or nothing is known about it.
    #[error("E460: the bundle cannot be applied: {0}")]
    Plan(String),
    /// No library of the process has an imported symbol.
    #[error("E461: no library of the process has {symbol}{}; the new build is linked with {}, which would have to be loaded", version.as_ref().map(|v| format!("@{v}")).unwrap_or_default(), library.as_deref().unwrap_or("a library that has it"))]
    Unresolved {
        /// The symbol.
        symbol: String,
        /// Its version.
        version: Option<String>,
        /// The library that the new build was linked against.
        library: Option<String>,
    },
}

impl DsuError {
    /// The message without its code, for who shows that apart.
    #[must_use]
    pub fn text(&self) -> String {
        let text = self.to_string();
        let code = format!("{}: ", self.code());
        text.strip_prefix(&code).unwrap_or(&text).to_owned()
    }

    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } => "E400",
            Self::NotComparable { .. } => "E401",
            Self::NoBuildId { .. } => "E402",
            Self::NoDebug { .. } => "E403",
            Self::DebugMismatch { .. } => "E404",
            Self::Dwarf { .. } => "E405",
            Self::SameBuild { .. } => "E406",
            Self::Incompatible { .. } => "E407",
            Self::Rules { .. } => "E408",
            Self::Blocked(_) => "E409",
            Self::Compile { .. } => "E415",
            Self::BadTransformer { .. } => "E414",
            Self::BadDeclaration { .. } => "E416",
            Self::BadBundle { .. } => "E450",
            Self::Version { .. } => "E451",
            Self::Write { .. } => "E452",
            Self::Untrusted { .. } => "E453",
            Self::NotSigned { .. } => "E454",
            Self::BadKey { .. } => "E455",
            Self::Plan(_) => "E460",
            Self::Unresolved { .. } => "E461",
        }
    }
}
