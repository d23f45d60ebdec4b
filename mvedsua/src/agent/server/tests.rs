//! The server over a real socket, before a scripted engine.

use std::path::PathBuf;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::agent::scripted::{Scripted, until};
use crate::session::{UpdateOptions, WaitFor};

struct Bench {
    folder: tempfile::TempDir,
    registry: Arc<Registry<Scripted>>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = ControlSocket::listen(&folder.path().join("control.sock"), None).unwrap();
        let registry = Arc::new(Registry::new());
        let (stop, stopped) = oneshot::channel();
        let shutdown = async move {
            let _ = stopped.await;
        };
        let server = tokio::spawn(serve(socket, Arc::clone(&registry), Vec::new(), shutdown));
        Self {
            folder,
            registry,
            stop,
            server,
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    async fn connect(&self) -> Connection {
        let stream = UnixStream::connect(self.socket()).await.unwrap();
        let (reader, writer) = stream.into_split();
        let mut connection = Connection {
            reader: BufReader::new(reader),
            writer,
        };
        assert!(matches!(connection.next().await, Some(Answer::Hello(_))));
        connection
    }

    /// A connection, and a service `redis` (which is this very process: the agent looks in /proc).
    async fn with_redis(&self) -> Connection {
        let mut connection = self.connect().await;
        let pid = std::process::id();
        let attach = format!(r#"{{"ask":"attach","name":"redis","pid":{pid}}}"#);
        assert!(matches!(
            connection.ask(&attach).await,
            Answer::Attached { .. }
        ));
        connection
    }

    fn stage(&self) -> Stage {
        self.registry.get("redis").unwrap().engine.status().stage
    }
}

struct Connection {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Connection {
    async fn say(&mut self, line: &str) {
        self.writer
            .write_all(format!("{line}\n").as_bytes())
            .await
            .unwrap();
    }

    async fn next(&mut self) -> Option<Answer> {
        let mut line = String::new();
        let read = timeout(Duration::from_secs(10), self.reader.read_line(&mut line));
        match read.await.expect("an answer").unwrap() {
            0 => None,
            _ => Some(serde_json::from_str::<Response>(&line).expect(&line).answer),
        }
    }

    async fn ask(&mut self, line: &str) -> Answer {
        self.say(line).await;
        self.next().await.expect("an answer")
    }

    async fn code(&mut self, line: &str) -> String {
        match self.ask(line).await {
            Answer::Error(problem) => problem.code,
            other => panic!("{line}: {other:?}"),
        }
    }
}

fn update(wait: WaitFor) -> String {
    let command = Command::Update(UpdateOptions {
        wait,
        ..UpdateOptions::default()
    });
    serde_json::to_string(&Ask::Command {
        name: "redis".into(),
        command,
    })
    .unwrap()
}

const STATUS: &str = r#"{"ask":"status"}"#;
const ROLLBACK: &str = r#"{"ask":"command","name":"redis","command":{"rollback":{"reason":"x"}}}"#;
const DETACH: &str = r#"{"ask":"command","name":"redis","command":"detach"}"#;

#[tokio::test]
async fn a_rollback_overtakes_the_update_that_waits() {
    let bench = Bench::new();
    let mut first = bench.with_redis().await;
    first.say(&update(WaitFor::CaughtUp)).await;
    until(|| bench.stage() == Stage::Updating).await;
    let mut second = bench.connect().await;
    assert!(matches!(
        second.ask(ROLLBACK).await,
        Answer::Done {
            status: Some(_),
            ..
        }
    ));
    let Some(Answer::Error(problem)) = first.next().await else {
        panic!("the update ended well")
    };
    assert_eq!((problem.code.as_str(), problem.exit_code), ("E110", 3));
    assert_eq!(problem.report.as_deref(), Some("line 1\nline 2"));
    assert_eq!(
        second.code(ROLLBACK).await,
        "E202",
        "the engine's own refusal passes through"
    );
}

#[tokio::test]
async fn an_update_goes_on_when_its_client_hangs_up() {
    let bench = Bench::new();
    let mut first = bench.with_redis().await;
    first.say(&update(WaitFor::CaughtUp)).await;
    until(|| bench.stage() == Stage::Updating).await;
    drop(first);
    let mut second = bench.connect().await;
    assert!(matches!(second.ask(STATUS).await, Answer::Status { .. }));
    assert_eq!(bench.stage(), Stage::Updating);
    assert!(matches!(second.ask(ROLLBACK).await, Answer::Done { .. }));
}

#[tokio::test]
async fn a_stopping_agent_leaves_no_follower_behind() {
    let bench = Bench::new();
    let mut waiting = bench.with_redis().await;
    let mut watching = bench.connect().await;
    let mut idle = bench.connect().await;
    waiting.say(&update(WaitFor::CaughtUp)).await;
    until(|| bench.stage() == Stage::Updating).await;
    watching
        .say(r#"{"ask":"events","name":"redis","follow":true}"#)
        .await;
    assert!(matches!(watching.next().await, Some(Answer::Events { .. })));
    let engine = Arc::downgrade(&bench.registry.get("redis").unwrap().engine);
    let socket = bench.socket();
    bench.stop.send(()).unwrap();
    // Whoever waits is told how his update ended, and only then the connection closes.
    let Some(Answer::Error(problem)) = waiting.next().await else {
        panic!("no rollback")
    };
    assert_eq!(problem.code, "E110");
    assert!(matches!(watching.next().await, Some(Answer::End { .. })));
    assert!(idle.next().await.is_none());
    timeout(Duration::from_secs(10), bench.server)
        .await
        .expect("it stops")
        .unwrap();
    assert_eq!(engine.strong_count(), 0, "the engines are dropped");
    assert!(!socket.exists());
}

#[tokio::test]
async fn streams_end_with_the_service_and_say_why() {
    let bench = Bench::new();
    let mut events = bench.with_redis().await;
    let mut watch = bench.connect().await;
    events
        .say(r#"{"id":9,"ask":"events","name":"redis","follow":true}"#)
        .await;
    let Some(Answer::Events { entries }) = events.next().await else {
        panic!()
    };
    assert_eq!(entries[0].what, "attached");
    watch.say(r#"{"ask":"watch","name":"redis"}"#).await;
    assert!(matches!(watch.next().await, Some(Answer::Changed { .. })));
    bench
        .registry
        .get("redis")
        .unwrap()
        .engine
        .end("killed by signal 11");
    let Some(Answer::Events { entries }) = events.next().await else {
        panic!()
    };
    assert_eq!(entries.len(), 1, "only what is new");
    for stream in [&mut events, &mut watch] {
        let end = loop {
            match stream.next().await.expect("an end") {
                Answer::End { reason } => break reason,
                Answer::Changed { .. } => {}
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(end, "killed by signal 11");
        // The connection is of use again.
        assert!(matches!(stream.ask(STATUS).await, Answer::Status { .. }));
    }
    // The service is gone, its timeline is not.
    assert_eq!(
        events.code(r#"{"ask":"status","name":"redis"}"#).await,
        "E105"
    );
    let timeline = events.ask(r#"{"ask":"events","name":"redis"}"#).await;
    assert!(matches!(timeline, Answer::Events { entries } if entries.len() == 2));
}

#[tokio::test]
async fn a_line_of_the_client_ends_a_stream() {
    let bench = Bench::new();
    let mut connection = bench.with_redis().await;
    connection.say(r#"{"ask":"watch","name":"redis"}"#).await;
    assert!(matches!(
        connection.next().await,
        Some(Answer::Changed { .. })
    ));
    connection.say(STATUS).await;
    loop {
        match connection.next().await {
            Some(Answer::Changed { .. }) => {}
            Some(Answer::Status { services }) => break assert_eq!(services.len(), 1),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_panic_of_an_engine_stays_with_its_request() {
    let bench = Bench::new();
    let mut connection = bench.with_redis().await;
    let promote = r#"{"ask":"command","name":"redis","command":{"promote":{"finalize":false}}}"#;
    assert_eq!(connection.code(promote).await, "E117");
    assert!(matches!(
        connection.ask(&update(WaitFor::None)).await,
        Answer::Done { .. }
    ));
}

#[tokio::test]
async fn bad_lines_are_answered_and_the_connection_stays() {
    let bench = Bench::new();
    let mut connection = bench.connect().await;
    for garbage in [
        "{",
        "null",
        "[]",
        "\u{0}\u{1}",
        r#"{"ask":"explode"}"#,
        r#"{"ask":"watch"}"#,
    ] {
        assert_eq!(connection.code(garbage).await, "E113", "{garbage:?}");
    }
    connection
        .writer
        .write_all(b"\xff\xfe\n\n  \n")
        .await
        .unwrap();
    assert!(
        matches!(connection.next().await, Some(Answer::Error(_))),
        "empty lines are skipped"
    );
    assert_eq!(
        connection.code(&"x".repeat(3 * REQUEST_LIMIT)).await,
        "E114"
    );
    let deep = format!(r#"{{"ask":{}"#, "[".repeat(REQUEST_LIMIT / 2));
    assert_eq!(connection.code(&deep).await, "E113");
    assert!(matches!(
        connection.ask(STATUS).await,
        Answer::Status { .. }
    ));
}

#[tokio::test]
async fn attach_and_detach_keep_the_names_in_order() {
    let bench = Bench::new();
    let mut connection = bench.with_redis().await;
    let me = std::process::id();
    let parent = std::os::unix::process::parent_id();
    let attach =
        |name: &str, pid: u32| format!(r#"{{"ask":"attach","name":"{name}","pid":{pid}}}"#);
    assert_eq!(connection.code(&attach("redis", parent)).await, "E107");
    assert_eq!(connection.code(&attach("other", me)).await, "E108");
    assert_eq!(
        connection.code(&attach("other", 2_000_000_000)).await,
        "E109"
    );
    // What the engine refuses leaves no trace.
    assert_eq!(connection.code(&attach("iouring", parent)).await, "E201");
    assert_eq!(connection.code(&attach("iouring", parent)).await, "E201");
    // Whoever detached may attach again at once under the same name.
    assert!(matches!(
        connection.ask(DETACH).await,
        Answer::Done { status: None, .. }
    ));
    assert!(matches!(
        connection.ask(&attach("redis", me)).await,
        Answer::Attached { .. }
    ));
    // Without a name, the process's own is taken.
    let nameless = format!(r#"{{"ask":"attach","pid":{parent}}}"#);
    let Answer::Attached { status } = connection.ask(&nameless).await else {
        panic!()
    };
    assert!(
        crate::agent::name::is_valid(&status.name),
        "{}",
        status.name
    );
}

#[tokio::test]
async fn more_connections_than_served_are_told_so() {
    let bench = Bench::new();
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        held.push(bench.connect().await);
    }
    let stream = UnixStream::connect(bench.socket()).await.unwrap();
    let (reader, writer) = stream.into_split();
    let mut refused = Connection {
        reader: BufReader::new(reader),
        writer,
    };
    assert!(matches!(refused.next().await, Some(Answer::Error(p)) if p.code == "E115"));
    assert!(refused.next().await.is_none());
    assert!(matches!(held[0].ask(STATUS).await, Answer::Status { .. }));
}
