//! What a stranger sees of the command line without an agent.

use std::process::{Command, Output};

use serde_json::Value;

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mvedsua"))
        .args(arguments)
        .output()
        .unwrap()
}

fn stdout(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

const SUBCOMMANDS: [&str; 14] = [
    "attach",
    "run",
    "update",
    "promote",
    "finalize",
    "rollback",
    "detach",
    "status",
    "events",
    "watch",
    "doctor",
    "agent",
    "completions",
    "man",
];

#[test]
fn help_lists_every_command_and_the_exit_codes() {
    let help = stdout(&["--help"]);
    for subcommand in SUBCOMMANDS {
        assert!(
            help.contains(&format!("\n  {subcommand} ")),
            "{subcommand} in\n{help}"
        );
        let own = stdout(&[subcommand, "--help"]);
        assert!(own.contains("Examples:"), "{own}");
    }
    assert!(
        help.contains("3 rolled back") && help.contains("4 no such service"),
        "{help}"
    );
    assert!(
        !stdout(&["update", "--help"]).contains("inject-fault"),
        "it is for tests"
    );
}

#[test]
fn wrong_usage_is_exit_code_2_and_says_what_is_right() {
    for (arguments, hint) in [
        (&["atach"][..], "attach"),
        (&["attach"], "--pid"),
        (&["attach", "--pid", "redis"], "--pid"),
        (&["update", "redis"], "--identity"),
        (
            &["update", "redis", "--identity", "--ring", "100M"],
            "64M or 128M",
        ),
        (
            &["update", "redis", "--identity", "--hang-limit", "5"],
            "500ms",
        ),
        (
            &["update", "redis", "--identity", "--wait", "long"],
            "caught-up",
        ),
        (&["run", "redis-server"], "--"),
        (&[], "Usage"),
    ] {
        let output = run(arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(hint), "{arguments:?}: {error}");
    }
}

/// An agent that another user started could follow nothing, and would stay behind.
#[test]
fn only_root_starts_an_agent() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    const NOBODY: u32 = 65534;

    let dir = tempfile::tempdir().unwrap();
    // Where everybody may execute it.
    let program = dir.path().join("mvedsua");
    std::fs::copy(env!("CARGO_BIN_EXE_mvedsua"), &program).unwrap();
    for path in [dir.path(), &program] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let (own, socket) = (
        std::process::id().to_string(),
        dir.path().join("made/socket"),
    );
    let mut command = Command::new(&program);
    command
        .args(["attach", "--pid", &own, "--socket"])
        .arg(&socket);
    if nix::unistd::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(
        said.contains("error[E103]") && said.contains("sudo"),
        "{said}"
    );
    assert!(!dir.path().join("made").exists());
}

#[test]
fn completions_and_manual_are_made() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            stdout(&["completions", shell]).contains("rollback"),
            "{shell}"
        );
    }
    assert!(stdout(&["man"]).contains(".TH mvedsua 1"));
    let folder = tempfile::tempdir().unwrap();
    stdout(&["man", folder.path().to_str().unwrap()]);
    for subcommand in SUBCOMMANDS {
        assert!(
            folder
                .path()
                .join(format!("mvedsua-{subcommand}.1"))
                .exists(),
            "{subcommand}"
        );
    }
    let output = run(&["man", "/dev/null/nowhere"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .starts_with("error[E124]")
    );
}

#[test]
fn the_doctor_agrees_with_itself() {
    let output = run(&["--socket", "/nonexistent/s", "doctor", "--json"]);
    let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = findings.as_array().unwrap();
    assert!(findings.len() >= 18);
    let missing = findings.iter().any(|finding| finding["state"] == "missing");
    assert_eq!(output.status.code(), Some(if missing { 5 } else { 0 }));
    let words = run(&["--socket", "/nonexistent/s", "doctor"]);
    let words = String::from_utf8(words.stdout).unwrap();
    for finding in findings {
        assert!(words.contains(finding["code"].as_str().unwrap()), "{words}");
    }
}
