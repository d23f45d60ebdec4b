//! Compiles pairs of victims and applies plans to running ones.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use mvedsua::dsu::{
    Analysis, BuildOptions, Bundle, DebugSearch, DsuError, Placement, Protection, analyse, build,
    choose_base, plan,
};
use object::{Object as _, ObjectSymbol as _};

/// Where the sources are.
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/bundles")
}

/// Two builds of a program in a folder of their own.
pub struct Pair {
    pub folder: tempfile::TempDir,
    pub files: Vec<String>,
    pub flags: Vec<String>,
    pub transform: Option<PathBuf>,
}

fn run(command: &mut Command) {
    let output = command.output().expect("the tool is installed");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

impl Pair {
    /// Compiles versions 1 and 2.
    pub fn new(files: &[&str], flags: &[&str]) -> Self {
        let pair = Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
            files: files.iter().map(|f| (*f).to_owned()).collect(),
            flags: flags.iter().map(|f| (*f).to_owned()).collect(),
            transform: None,
        };
        pair.compile(1);
        pair.compile(2);
        pair
    }

    fn compile(&self, version: u32) {
        let cpp = self.files.iter().any(|f| f.ends_with(".cc"));
        let mut objects = Vec::new();
        for file in self.files.iter().map(String::as_str).chain(["main.c"]) {
            let object = self.folder.path().join(format!("{file}.{version}.o"));
            let tool = if file.ends_with(".cc") { "g++" } else { "gcc" };
            run(Command::new(tool)
                .current_dir(sources())
                .args([
                    "-g",
                    "-O2",
                    "-Wall",
                    "-Werror",
                    "-Wno-unused-result",
                    &format!("-DVERSION={version}"),
                    "-c",
                    file,
                    "-o",
                ])
                .arg(&object)
                .args(&self.flags));
            objects.push(object);
        }
        let static_position = self.flags.iter().any(|f| f == "-fno-pie");
        run(Command::new(if cpp { "g++" } else { "gcc" })
            .arg(if static_position { "-no-pie" } else { "-pie" })
            .arg("-Wl,--build-id")
            .args(&objects)
            .arg("-o")
            .arg(self.path(version)));
    }

    /// Compiles versions 1 and 2 of a Rust program; version 2 is `--cfg new`.
    pub fn rust(file: &str) -> Self {
        let pair = Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
            files: vec![file.to_owned()],
            flags: Vec::new(),
            transform: None,
        };
        for version in [1, 2] {
            let mut rustc = Command::new("rustc");
            rustc.current_dir(sources()).args([
                "-g",
                "-O",
                "--edition",
                "2024",
                "-Clink-arg=-Wl,--build-id",
                file,
                "-o",
            ]);
            rustc.arg(pair.path(version));
            if version == 2 {
                rustc.args(["--cfg", "new"]);
            }
            run(&mut rustc);
        }
        pair
    }

    pub fn path(&self, version: u32) -> PathBuf {
        self.folder.path().join(format!("victim.{version}"))
    }

    pub fn options(&self) -> BuildOptions {
        let nowhere = DebugSearch {
            roots: vec![self.folder.path().join("debug")],
            named: None,
        };
        BuildOptions {
            old: self.path(1),
            new: self.path(2),
            debug_old: nowhere.clone(),
            debug_new: nowhere,
            transform: self.transform.clone(),
            ..BuildOptions::default()
        }
    }

    pub fn analysis(&self) -> Analysis {
        analyse(&self.options()).expect("both builds can be compared")
    }

    /// Codes and symbols of what blocks a bundle.
    pub fn blockers(&self) -> Vec<(String, String)> {
        self.analysis()
            .blockers
            .into_iter()
            .map(|b| (b.code.to_owned(), b.symbol))
            .collect()
    }

    pub fn bundle(&self) -> Bundle {
        build(&self.options()).unwrap_or_else(|e: DsuError| panic!("{e}"))
    }

    /// The bundle that leads back.
    pub fn way_back(&self) -> Bundle {
        let options = self.options();
        build(&BuildOptions {
            old: options.new,
            new: options.old,
            ..options
        })
        .unwrap_or_else(|e| panic!("{e}"))
    }

    pub fn start(&self) -> Running {
        Running::start(&self.path(1), self.folder.path())
    }
}

/// A running victim.
pub struct Running {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    plan_file: PathBuf,
    program: PathBuf,
    pub placement: Placement,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already; both are fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn start(program: &Path, folder: &Path) -> Self {
        let library = folder.join("apply.so");
        run(Command::new("gcc")
            .current_dir(sources())
            .args(["-O1", "-shared", "-fPIC", "apply.c", "-o"])
            .arg(&library));
        let plan_file = folder.join("plan");
        let mut child = Command::new(program)
            .env("LD_PRELOAD", &library)
            .env("PLAN", &plan_file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the victim starts");
        let (input, output) = (
            child.stdin.take().expect("piped"),
            BufReader::new(child.stdout.take().expect("piped")),
        );
        let data = std::fs::read(program).expect("readable");
        let file = object::File::parse(&*data).expect("an ELF file");
        let build_id = file
            .build_id()
            .expect("readable")
            .expect("linked with one")
            .to_vec();
        Self {
            child,
            input,
            output,
            plan_file,
            program: program.into(),
            placement: Placement::loaded(build_id, 0),
        }
    }

    /// Sends a line and returns the answer.
    pub fn ask(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").expect("it reads");
        self.answer()
    }

    fn answer(&mut self) -> String {
        let mut answer = String::new();
        self.output.read_line(&mut answer).expect("it answers");
        answer.trim_end().to_owned()
    }

    /// Start, end, path.
    fn maps(&self) -> Vec<(u64, u64, u64, String)> {
        let text =
            std::fs::read_to_string(format!("/proc/{}/maps", self.child.id())).expect("it runs");
        text.lines()
            .map(|line| {
                let mut words = line.split_whitespace();
                let (start, end) = words
                    .next()
                    .and_then(|r| r.split_once('-'))
                    .expect("a range");
                let offset = words.nth(1).expect("an offset");
                let number = |t: &str| u64::from_str_radix(t, 16).expect("hexadecimal");
                (
                    number(start),
                    number(end),
                    number(offset),
                    words.nth(2).unwrap_or("").to_owned(),
                )
            })
            .collect()
    }

    /// Applies a bundle as the agent would, and returns what the victim says to it.
    pub fn apply(&mut self, bundle: &Bundle) -> String {
        let maps = self.maps();
        let program = self.program.to_str().expect("a plain path");
        let image: Vec<_> = maps.iter().filter(|m| m.3 == program).collect();
        let (start, end) = (
            image.first().expect("mapped").0,
            image.last().expect("mapped").1,
        );
        if bundle.manifest.pie
            && self.placement == Placement::loaded(self.placement.build_id.clone(), 0)
        {
            self.placement = Placement::loaded(self.placement.build_id.clone(), start);
        }
        let taken: Vec<_> = maps.iter().map(|m| (m.0, m.1)).collect();
        let base =
            choose_base(&bundle.manifest, (start, end), &taken).expect("room near the image");
        let resolve = |import: &mvedsua::dsu::Import| {
            maps.iter()
                .filter(|m| m.2 == 0 && m.3.contains(".so"))
                .find_map(|m| {
                    let data = std::fs::read(&m.3).ok()?;
                    let file = object::File::parse(&*data).ok()?;
                    file.dynamic_symbols()
                        .find(|s| s.name() == Ok(&import.symbol) && !s.is_undefined())
                        .map(|s| m.0 + s.address())
                })
        };
        let plan = plan(&bundle.manifest, &self.placement, base, &resolve)
            .unwrap_or_else(|e| panic!("{e}"));
        let mut file = Vec::new();
        let record = |file: &mut Vec<u8>, kind: u8, addr: u64, len: u64| {
            file.push(kind);
            file.extend_from_slice(&addr.to_le_bytes());
            file.extend_from_slice(&len.to_le_bytes());
        };
        for write in &plan.switch {
            let expected = write.expected.as_ref().expect("the old image is checked");
            record(&mut file, b'e', write.addr, expected.bytes.len() as u64);
            file.extend_from_slice(&expected.bytes);
            file.extend_from_slice(&expected.mask);
        }
        record(&mut file, b'r', plan.reserve.0, plan.reserve.1);
        for mapping in &plan.mappings {
            record(&mut file, b'm', mapping.addr, mapping.len);
        }
        for write in &plan.fill {
            record(&mut file, b'w', write.addr, write.bytes.len() as u64);
            file.extend_from_slice(&write.bytes);
        }
        for copy in &plan.copies {
            record(&mut file, b'p', copy.to, copy.len);
            file.extend_from_slice(&copy.from.to_le_bytes());
        }
        for mapping in &plan.mappings {
            let kind = match mapping.protection {
                Protection::ReadExecute => b'x',
                Protection::Read => b'c',
                Protection::ReadWrite => b'v',
            };
            record(&mut file, kind, mapping.addr, mapping.len);
        }
        if let Some(unwind) = plan.unwind {
            record(&mut file, b'u', unwind, 0);
        }
        if let Some(transform) = &plan.transform {
            record(&mut file, b't', transform.entry, 0);
            file.extend_from_slice(&transform.control.to_le_bytes());
        }
        for write in &plan.switch {
            record(&mut file, b'w', write.addr, write.bytes.len() as u64);
            file.extend_from_slice(&write.bytes);
        }
        std::fs::write(&self.plan_file, file).expect("writable");
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGUSR1).expect("it runs");
        self.placement = plan.after;
        self.answer()
    }
}
