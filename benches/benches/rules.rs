//! What rules cost: a call that none concerns, a rewriting rule, parse and check.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use mvedsua::matcher::Record;
use mvedsua::rules::ast::Direction;
use mvedsua::rules::call::Call;
use mvedsua::rules::engine::Engine;
use mvedsua::rules::expected::Expected;
use mvedsua::rules::loader::load_text;

/// A call whose clone is cheap, as the matcher's is.
#[derive(Clone)]
struct Recorded {
    nr: u16,
    args: [u64; 6],
    ret: i64,
    text: Arc<[u8]>,
}

impl Call for Recorded {
    fn nr(&self) -> u16 {
        self.nr
    }
    fn args(&self) -> &[u64; 6] {
        &self.args
    }
    fn ret(&self) -> i64 {
        self.ret
    }
    fn tid(&self) -> u32 {
        1
    }
    fn seq(&self) -> u64 {
        0
    }
    fn payload(&self, arg: u8) -> Option<&[u8]> {
        (arg == 1).then_some(&self.text)
    }
}

fn read(text: &[u8]) -> Recorded {
    Recorded {
        nr: 0,
        args: [5, 0, 16384, 0, 0, 0],
        ret: i64::try_from(text.len()).expect("a short text"),
        text: text.into(),
    }
}

/// So many rules on `read`, each with a literal start of its own, all beginning alike.
fn rules(count: usize) -> String {
    let mut text = String::new();
    for i in 0..count {
        writeln!(
            text,
            "rule r{i}: read(fd, \"COMMAND-{i:04} $rest\") => read(fd, \"OTHER-{i:04} $rest\");"
        )
        .expect("memory");
    }
    text
}

fn engine(text: &str) -> Engine<Recorded> {
    let loaded = load_text("bench", text);
    let set = loaded.rules.expect("rules that check");
    Engine::new(Arc::new(set), Direction::Forward)
}

fn feed(bench: &mut Criterion, name: &str, text: &str, call: &Recorded) {
    let mut engine = engine(text);
    let mut out: VecDeque<Expected<Recorded>> = VecDeque::with_capacity(16);
    bench.bench_function(name, |b| {
        b.iter_batched(
            || call.clone(),
            |call| {
                engine
                    .feed(black_box(call), Duration::ZERO, &mut out)
                    .expect("no error");
                black_box(out.pop_front())
            },
            BatchSize::SmallInput,
        );
    });
}

fn unconcerned(bench: &mut Criterion) {
    // The worst case: the text goes along with the rules' up to the last byte.
    let near = read(b"COMMAND-x012 and so on, up to sixty-four bytes of text in all.\r\n");
    let far = read(b"GET key\r\n");
    for count in [0, 1, 14, 100, 1000] {
        feed(
            bench,
            &format!("no rule concerns it/{count} rules/other text"),
            &rules(count),
            &far,
        );
        feed(
            bench,
            &format!("no rule concerns it/{count} rules/near text"),
            &rules(count),
            &near,
        );
    }
}

/// A call in the ring, as the engine thread asks about it before anything is copied.
struct InRing<'a>(Record<'a>);

impl Call for InRing<'_> {
    fn nr(&self) -> u16 {
        self.0.header.nr
    }
    fn args(&self) -> &[u64; 6] {
        &self.0.header.args
    }
    fn ret(&self) -> i64 {
        self.0.header.ret
    }
    fn tid(&self) -> u32 {
        0
    }
    fn seq(&self) -> u64 {
        0
    }
    fn payload(&self, arg: u8) -> Option<&[u8]> {
        self.0.data(arg)
    }
}

fn passed_by(bench: &mut Criterion) {
    let text = b"COMMAND-x012 and so on, up to sixty-four bytes of text in all.\r\n";
    let call = mvedsua_benches::Recorded::new("read", [5, 0x1000, 16384, 0, 0, 0], 64, 1, text);
    for count in [0, 1, 14, 100, 1000] {
        let engine = engine(&rules(count));
        bench.bench_function(&format!("asked in the ring/{count} rules"), |b| {
            b.iter(|| {
                let record = Record {
                    header: call.header,
                    payload: &call.payload,
                };
                black_box(engine.concerns(black_box(&InRing(record))))
            });
        });
    }
}

fn rewriting(bench: &mut Criterion) {
    let text = b"PUT key-number-seventeen a value that fills sixty-four bytes..\r\n";
    assert_eq!(text.len(), 64);
    let hole = "read(fd, \"PUT $key $val\") => read(fd, \"PUT-string $key $val\");";
    feed(bench, "rewrites 64 bytes/holes", hole, &read(text));
    let paper = r#"
parser parse = /^(?<cmd>[A-Z]+)(?:-(?<typ>[a-z]+))? (?<key>[^ \r\n]+)(?: (?<val>[^\r\n]*\r?\n))?/;
read(fd,s,n) { (cmd,typ,_,_) = parse$(s) return cmd == PUT && typ == NULL; } as r
  => r(fd,s,n) { (cmd,_key,val) = parse$(s); $(s) = "$cmd-string $key $val"; $(n) += 7; }
"#;
    feed(
        bench,
        "rewrites 64 bytes/the paper's rule 2",
        paper,
        &read(text),
    );
}

fn loading(bench: &mut Criterion) {
    let text = rules(1000);
    bench.bench_function("parse and check 1000 rules", |b| {
        b.iter(|| black_box(load_text("bench", black_box(&text)).rules.is_some()));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = unconcerned, passed_by, rewriting, loading
}
criterion_main!(benches);
