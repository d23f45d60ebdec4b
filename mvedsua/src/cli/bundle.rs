//! `mvedsua bundle`

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::dsu::{self, BuildOptions, Bundle, Control, DebugSearch, DsuError};
use crate::rules::{loader::load_text, tools};

/// Make and look at bundles: what turns a running old version into a new one
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  mvedsua bundle diff --old redis-server.u7 --new redis-server.u10
  mvedsua bundle build --old redis-server.u7 --new redis-server.u10 -o redis.mvu
  mvedsua bundle inspect redis.mvu")]
pub enum BundleCommand {
    /// Compare two builds and write a bundle
    ///
    /// Both builds need symbols and DWARF: in the file, or in a separate debug file.
    #[command(after_help = "\
Examples:
  mvedsua bundle build --old redis-server.u7 --new redis-server.u10 -o redis.mvu --sign team.key
  mvedsua bundle build --old a --new b --debug-old a.debug --debug-new b.debug -o b.mvu
  mvedsua bundle build --old a --new b --control worker_main=leave --keep-value default_port -o b.mvu")]
    Build(BuildArgs),
    /// Sign a bundle with a minisign key, into FILE.minisig
    #[command(after_help = "\
Examples:
  minisign -G -p team.pub -s team.key                    make a key, once
  mvedsua bundle sign redis.mvu --key team.key
  mvedsua update redis redis.mvu --require-signature team.pub")]
    Sign(SignArgs),
    /// Say whether the agent would take a bundle: who can write the file, digest, signature
    Verify(VerifyArgs),
    /// Write the C header that a transformer is written against
    ///
    /// It declares the types of both builds, their variables and functions, and what a transformer may call.
    #[command(after_help = "\
Examples:
  mvedsua bundle header --old server.1 --new server.2 -o mvedsua.h
  mvedsua bundle header --old server.1 --new server.2 --declared transform.toml")]
    Header(HeaderArgs),
    /// Explain a bundle
    Inspect(InspectArgs),
    /// Explain what a bundle of two builds would change, and what stands in its way
    Diff(DiffArgs),
}

/// The two builds, and where their debug files are.
#[derive(Debug, clap::Args)]
pub struct Builds {
    /// The build that runs
    #[arg(long, value_name = "FILE")]
    old: PathBuf,
    /// The build that it becomes
    #[arg(long, value_name = "FILE")]
    new: PathBuf,
    /// Debug file of the old build [default: found by build-id]
    #[arg(long, value_name = "FILE")]
    debug_old: Option<PathBuf>,
    /// Debug file of the new build [default: found by build-id]
    #[arg(long, value_name = "FILE")]
    debug_new: Option<PathBuf>,
    /// Folder with `.build-id/xx/yyyy.debug` files; may be repeated
    #[arg(long, value_name = "FOLDER", default_value = "/usr/lib/debug")]
    debug_root: Vec<PathBuf>,
    /// The running value of this variable stays, though its initial value differs; may be repeated
    #[arg(long, value_name = "VARIABLE")]
    keep_value: Vec<String>,
    /// No object of this type (such as "struct request") outlives a call; may be repeated
    #[arg(long, value_name = "TYPE")]
    accept_type: Vec<String>,
    /// Static variables that this function declares under one name in several blocks are the same in both builds in
    /// their order; may be repeated
    #[arg(long, value_name = "FUNCTION")]
    in_order: Vec<String>,
    /// What to do with a changed function that never leaves the stack; may be repeated
    #[arg(long, value_name = "FUNCTION=restart|leave", value_parser = control)]
    control: Vec<(String, Control)>,
}

/// Arguments of `bundle build`.
#[derive(Debug, clap::Args)]
pub struct BuildArgs {
    #[command(flatten)]
    builds: Builds,
    /// Rules for the differences in behaviour that are meant
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// Turns objects of changed types into new ones: C (against `bundle header`), a declaration in TOML, or an object file
    #[arg(long, value_name = "FILE")]
    transform: Option<PathBuf>,
    /// The bundle to write
    #[arg(long, short, value_name = "FILE", default_value = "update.mvu")]
    output: PathBuf,
    /// Sign it, too, with this minisign secret key
    #[arg(long, value_name = "KEYFILE")]
    sign: Option<PathBuf>,
}

/// Arguments of `bundle sign`.
#[derive(Debug, clap::Args)]
pub struct SignArgs {
    /// The bundle
    file: PathBuf,
    /// The minisign secret key; a password is asked for
    #[arg(long, value_name = "KEYFILE")]
    key: PathBuf,
}

/// Arguments of `bundle verify`.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// The bundle
    file: PathBuf,
    /// The minisign public key (.pub) of who must have signed it
    #[arg(long, value_name = "PUBKEY")]
    require_signature: Option<PathBuf>,
}

/// Arguments of `bundle header`.
#[derive(Debug, clap::Args)]
pub struct HeaderArgs {
    #[command(flatten)]
    builds: Builds,
    /// Write the C source that this declared transformer stands for instead
    #[arg(long, value_name = "FILE")]
    declared: Option<PathBuf>,
    /// The file to write [default: the standard output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Arguments of `bundle inspect`.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// The bundle
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `bundle diff`.
#[derive(Debug, clap::Args)]
pub struct DiffArgs {
    #[command(flatten)]
    builds: Builds,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn control(text: &str) -> Result<(String, Control), String> {
    match text.rsplit_once('=') {
        Some((function, "restart")) if !function.is_empty() => {
            Ok((function.into(), Control::Restart))
        }
        Some((function, "leave")) if !function.is_empty() => Ok((function.into(), Control::Leave)),
        _ => Err("expected FUNCTION=restart or FUNCTION=leave".into()),
    }
}

impl Builds {
    fn options(self, rules: Option<String>) -> BuildOptions {
        BuildOptions {
            old: self.old,
            new: self.new,
            debug_old: DebugSearch {
                roots: self.debug_root.clone(),
                named: self.debug_old,
            },
            debug_new: DebugSearch {
                roots: self.debug_root,
                named: self.debug_new,
            },
            rules,
            control: self.control.into_iter().collect::<BTreeMap<_, _>>(),
            keep_values: self.keep_value.into_iter().collect::<BTreeSet<_>>(),
            accept_types: self.accept_type.into_iter().collect(),
            in_order: self.in_order.into_iter().collect(),
            transform: None,
        }
    }
}

/// Runs the command for a person: errors go to the standard error, and refusals exit with 5.
pub(super) fn main(command: BundleCommand) -> std::process::ExitCode {
    match command.run(&mut std::io::stdout().lock()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            // Inside of longer texts an error says its code itself.
            let (code, text) = (error.code(), error.to_string());
            let text = text
                .strip_prefix(code)
                .map_or(text.as_str(), |rest| rest.trim_start_matches(": "));
            eprintln!("error[{code}]: {text}");
            std::process::ExitCode::from(5)
        }
    }
}

impl BundleCommand {
    /// Carries the command out; what it prints goes to `out`.
    ///
    /// # Errors
    /// See [`DsuError`]: each has a code and says what to do next.
    pub fn run(self, out: &mut dyn Write) -> Result<(), DsuError> {
        match self {
            Self::Build(args) => {
                let rules = args.rules.as_deref().map(read_rules).transpose()?;
                let bundle = dsu::build(&BuildOptions {
                    transform: args.transform,
                    ..args.builds.options(rules)
                })?;
                bundle.write(&args.output)?;
                if let Some(key) = &args.sign {
                    dsu::sign(&args.output, key)?;
                }
                print(
                    out,
                    &format!(
                        "{}\nwrote {}, SHA-256 {}\n",
                        summary(&bundle),
                        args.output.display(),
                        dsu::hex(&bundle.digest)
                    ),
                )
            }
            Self::Sign(args) => {
                let place = dsu::sign(&args.file, &args.key)?;
                print(out, &format!("wrote {}\n", place.display()))
            }
            Self::Verify(args) => {
                let keys = match &args.require_signature {
                    Some(path) => vec![dsu::PublicKey::load(&real(path)?)?],
                    None => Vec::new(),
                };
                let bundle = dsu::trusted::read(&real(&args.file)?, &keys)?;
                let signed = keys
                    .first()
                    .map_or("no signature was asked for".into(), |key| {
                        format!("signed with key {}", key.line())
                    });
                print(out, &format!("{}\n{signed}\n", summary(&bundle)))
            }
            Self::Header(args) => {
                let options = args.builds.options(None);
                let text = match &args.declared {
                    Some(path) => dsu::declared(&options, path)?,
                    None => dsu::header(&options)?,
                };
                match args.output {
                    None => print(out, &text),
                    Some(path) => std::fs::write(&path, text)
                        .map_err(|source| DsuError::Write { path, source }),
                }
            }
            Self::Inspect(args) => {
                let bundle = Bundle::open(&args.file)?;
                if args.json {
                    return print(out, &format!("{:#}\n", json(&bundle)));
                }
                print(
                    out,
                    &format!(
                        "{}\nSHA-256 {}\n\n{}",
                        summary(&bundle),
                        dsu::hex(&bundle.digest),
                        bundle.manifest.report.text()
                    ),
                )
            }
            Self::Diff(args) => {
                let analysis = dsu::analyse(&args.builds.options(None))?;
                if args.json {
                    let value = serde_json::json!({ "report": analysis.manifest.report, "blockers": analysis.blockers });
                    return print(out, &format!("{value:#}\n"));
                }
                print(out, &analysis.manifest.report.text())?;
                if analysis.blockers.is_empty() {
                    return print(out, "\nA bundle can be built; no transformer is needed.\n");
                }
                print(out, "\nNo bundle can be built:\n")?;
                for blocker in &analysis.blockers {
                    print(out, &format!("  - {blocker}\n"))?;
                }
                Ok(())
            }
        }
    }
}

/// The text of a rule file and all that it includes, which must check.
fn read_rules(path: &Path) -> Result<String, DsuError> {
    let loaded = tools::load_file(path).map_err(|source| DsuError::Read {
        path: path.into(),
        source,
    })?;
    let text = tools::flatten(&loaded);
    let flat = load_text(&path.display().to_string(), &text);
    for loaded in [&loaded, &flat] {
        if loaded.rules.is_none() {
            return Err(DsuError::Rules {
                path: path.into(),
                text: tools::check(loaded).text.trim_end().to_owned(),
            });
        }
    }
    Ok(text)
}

/// The path without links: the agent follows none, and who types a command may.
fn real(path: &Path) -> Result<PathBuf, DsuError> {
    path.canonicalize().map_err(|source| DsuError::Read {
        path: path.into(),
        source,
    })
}

fn print(out: &mut dyn Write, text: &str) -> Result<(), DsuError> {
    match out.write_all(text.as_bytes()) {
        // `bundle inspect | head` is no error.
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(DsuError::Write {
            path: "the output".into(),
            source: e,
        }),
        _ => Ok(()),
    }
}

fn summary(bundle: &Bundle) -> String {
    let m = &bundle.manifest;
    format!(
        "{} {} -> {} {}\n{} functions, {} constants changed in place, {} new imports, {} bytes to place in {} pieces; {}",
        m.old.name,
        dsu::hex(&m.old.build_id),
        m.new.name,
        dsu::hex(&m.new.build_id),
        m.report.functions.len(),
        m.patches.len(),
        m.imports.len(),
        m.pieces.iter().map(|p| p.bytes.len()).sum::<usize>(),
        m.pieces.len(),
        match &m.transform {
            None => "no transformer".into(),
            Some(t) => format!("transformer {} for {}", t.source, t.handles.join(", ")),
        },
    )
}

fn json(bundle: &Bundle) -> serde_json::Value {
    let m = &bundle.manifest;
    let build = |b: &dsu::BuildName| serde_json::json!({ "build_id": dsu::hex(&b.build_id), "name": b.name });
    serde_json::json!({
        "format": dsu::VERSION,
        "made_by": m.made_by,
        "digest": dsu::hex(&bundle.digest),
        "old": build(&m.old),
        "new": build(&m.new),
        "pie": m.pie,
        "pieces": m.pieces.iter().map(|p| serde_json::json!({ "addr": p.addr, "bytes": p.bytes.len(), "kind": format!("{:?}", p.kind).to_lowercase() })).collect::<Vec<_>>(),
        "fixups": m.fixups.len(),
        "imports": m.imports,
        "redirects": m.redirects.iter().map(|r| serde_json::json!({ "name": r.name, "old_addr": r.old_addr, "new_addr": r.new_addr })).collect::<Vec<_>>(),
        "patches": m.patches.iter().map(|p| serde_json::json!({ "name": p.name, "old_addr": p.old_addr, "bytes": p.new.len() })).collect::<Vec<_>>(),
        "control": m.control,
        "needs_transformer": m.transform.is_some(),
        "transform": m.transform.as_ref().map(|t| serde_json::json!({ "source": t.source, "handles": t.handles, "bytes": t.end - t.start })),
        "rules": m.rules,
        "report": m.report,
    })
}
