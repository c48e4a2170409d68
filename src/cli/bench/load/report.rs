//! Measurements made of many runs: one rate, a sweep to the knee and beyond, the whole record.
//!
//! What is printed is Markdown, so that a record is the output as it is.

use std::time::Duration;

use serde_json::{Value, json};

use super::arrivals::{Class, Conduct, Kinds, Mix, Rpc};
use super::knee::{self, Rule, Search};
use super::process::Server;
use super::run::{Run, Stand, Target};
use super::{RATE_MAX, RATE_MIN};

/// The rate of a server without load.
const UNLOADED: f64 = 4.0;
const SLO_FACTOR: f64 = 10.0;
const OK_SHARE_MIN: f64 = 0.99;
const FACTOR: f64 = 1.6;
const PRECISION: f64 = 1.08;
/// Targets: the share of the knee's goodput that is left at twice its rate, and the time of a refusal.
const GOODPUT_MIN: f64 = 0.9;
const REFUSAL_MAX_MS: f64 = 5.0;
/// Of the knee: what interactive clients ask beside jobs that saturate, and the jobs.
const INTERACTIVE: f64 = 0.3;
const JOBS: f64 = 2.0;
/// How long a server rests before its memory is read.
const REST: Duration = Duration::from_secs(2);

/// One rate.
pub(super) async fn single(stand: &Stand<'_>, rate: f64) -> anyhow::Result<(Value, i32)> {
    println!("{}", Run::HEAD);
    let run = stand.run(&stand.target, rate, stand.load.kinds()).await?;
    run.print();
    Ok((serde_json::to_value(run)?, 0))
}

/// The knee, and twice its rate.
pub(super) async fn sweep(stand: &Stand<'_>) -> anyhow::Result<(Value, i32)> {
    println!("{}", Run::HEAD);
    let found = Found::by(stand).await?;
    let over = stand.run(&stand.target, 2.0 * found.rate, stand.load.kinds()).await?;
    over.print();
    println!("\n{}\n{}", found.text(), overload_text(&found.knee, &over));
    Ok((
        json!({"unloaded": found.unloaded, "rule": found.rule, "steps": found.steps, "knee": found.knee, "twice": over}),
        0,
    ))
}

/// Everything that the record tells.
pub(super) async fn report(stand: &Stand<'_>) -> anyhow::Result<(Value, i32)> {
    heading(stand);
    let idle = resident_mib(&stand.target);
    println!("## Load\n\n{}", Run::HEAD);
    let kinds = || stand.load.kinds();
    let found = Found::by(stand).await?;
    let over = stand.run(&stand.target, 2.0 * found.rate, kinds()).await?;
    over.print();
    let far_over = stand.run(&stand.target, 4.0 * found.rate, kinds()).await?;
    far_over.print();
    println!("\n{}\n{}", found.text(), overload_text(&found.knee, &over));
    println!("{}", overload_text(&found.knee, &far_over));

    let fairness = fairness(stand, found.rate).await?;
    tokio::time::sleep(REST).await;
    let process = stand.target.process;
    let most = process.and_then(|process| process.resident()).map(|resident| resident.most >> 20);
    let rested = resident_mib(&stand.target);
    let mib = |mebibytes: Option<u64>| mebibytes.map_or("-".into(), |mebibytes| mebibytes.to_string());
    println!("\n## Memory\n\n{} MiB before, {} at most, {} after", mib(idle), mib(most), mib(rested));

    let echo = echo(stand, &found).await?;
    let told = json!({
        "unloaded": found.unloaded, "rule": found.rule, "steps": found.steps, "knee": found.knee, "twice": over,
        "four_times": far_over, "fairness": fairness, "echo": echo,
        "memory_mib": {"before": idle, "most": most, "after": rested},
    });
    Ok((told, 0))
}

/// The knee of a server.
struct Found {
    unloaded: Run,
    rule: Rule,
    rate: f64,
    knee: Run,
    steps: Vec<Run>,
}

impl Found {
    /// Asks without load, then searches, printing as it goes.
    async fn by(stand: &Stand<'_>) -> anyhow::Result<Self> {
        let unloaded = stand.run(&stand.target, UNLOADED, stand.load.kinds()).await?;
        unloaded.print();
        let p50_ms = unloaded.figures.ok.p50_ms;
        anyhow::ensure!(p50_ms > 0.0, "no request was answered without load: {}", unloaded.remarks().join("; "));
        let p99_max_ms = stand.load.slo_ms.unwrap_or(SLO_FACTOR * p50_ms);
        let rule = Rule { p99_max_ms, ok_share_min: OK_SHARE_MIN };
        let first = 500.0 / p50_ms;
        let (knee, steps) = search(stand, &stand.target, (rule, first), &stand.load.kinds()).await?;
        Ok(Self { unloaded, rule, rate: knee.rate, knee, steps })
    }

    fn text(&self) -> String {
        let Rule { p99_max_ms, ok_share_min } = self.rule;
        format!(
            "knee      {:.1} a second: p99 at most {p99_max_ms:.1} ms and at least {:.0} % OK; without load p50 {:.1} ms",
            self.rate,
            100.0 * ok_share_min,
            self.unloaded.figures.ok.p50_ms,
        )
    }
}

/// The knee of `target`, and every run on the way.
async fn search(
    stand: &Stand<'_>,
    target: &Target,
    (rule, first): (Rule, f64),
    kinds: &Kinds,
) -> anyhow::Result<(Run, Vec<Run>)> {
    let search = Search { first, factor: FACTOR, precision: PRECISION, rate_max: RATE_MAX, rate_min: RATE_MIN };
    let measure = async |rate| {
        let run = stand.run(target, rate, kinds.clone()).await?;
        run.print();
        anyhow::Ok(run)
    };
    // A client that cannot keep up ends the search as a server does: beyond it nothing is known.
    let holds = |run: &Run| rule.holds(&run.figures) && run.figures.unsent == 0;
    let (rate, steps) = knee::find(search, measure, holds).await?;
    let steps: Vec<Run> = steps.into_iter().map(|(_, run)| run).collect();
    let knee = steps.iter().find(|run| Some(run.rate) == rate).cloned();
    Ok((knee.ok_or_else(|| anyhow::anyhow!("the server keeps its word at no rate"))?, steps))
}

fn overload_text(knee: &Run, over: &Run) -> String {
    let share = over.figures.goodput_per_s / knee.figures.goodput_per_s;
    let times = over.rate / knee.rate;
    let judged = |met: bool| if met { "met" } else { "MISSED" };
    let goodput = format!(
        "overload  {:.1} a second good at {times:.0} times the knee, {:.0} % of the knee's {:.1}; target {:.0} %: {}",
        over.figures.goodput_per_s,
        100.0 * share,
        knee.figures.goodput_per_s,
        100.0 * GOODPUT_MIN,
        judged(share >= GOODPUT_MIN),
    );
    let (intended, sent) = (over.figures.refused, over.figures.refused_from_send);
    let refusals = match intended.count {
        0 => format!("refusals  none at {times:.0} times the knee"),
        count => format!(
            "refusals  {count} at {times:.0} times the knee: p99 {:.2} ms from the intended start, {:.2} from sending; target {REFUSAL_MAX_MS} ms: {}",
            intended.p99_ms,
            sent.p99_ms,
            judged(intended.p99_ms < REFUSAL_MAX_MS),
        ),
    };
    format!("{goodput}\n{refusals}")
}

/// Interactive clients alone, then the same beside jobs that saturate.
async fn fairness(stand: &Stand<'_>, knee: f64) -> anyhow::Result<Value> {
    let of = |jobs: f64| Kinds {
        classes: Mix::of(&[(Class::Interactive, INTERACTIVE), (Class::Job, jobs)]),
        ..stand.load.kinds()
    };
    let alone = stand.run(&stand.target, INTERACTIVE * knee, of(0.0)).await?;
    let beside = stand.run(&stand.target, (INTERACTIVE + JOBS) * knee, of(JOBS)).await?;
    println!(
        "\n## Fairness\n\n| | class | asked /s | OK | good /s | p50 ms | p99 ms |\n|---|---|---:|---:|---:|---:|---:|"
    );
    for (about, run, class) in [
        ("alone", &alone, Class::Interactive),
        ("beside jobs", &beside, Class::Interactive),
        ("jobs", &beside, Class::Job),
    ] {
        let word = super::arrivals::name(&class);
        let figures = &run.figures;
        let asked: u64 = figures.by_status.iter().filter(|one| one.class == word).map(|one| one.count).sum();
        let ok = figures.ok_of(class);
        println!(
            "| {about} | {word} | {:.1} | {:.1} % | {:.1} | {:.1} | {:.1} |",
            asked as f64 / figures.seconds,
            100.0 * ok.map_or(0.0, |ok| ok.count as f64) / asked.max(1) as f64,
            figures.goodput_by_class_per_s.get(&word).copied().unwrap_or_default(),
            ok.map_or(0.0, |ok| ok.latency.p50_ms),
            ok.map_or(0.0, |ok| ok.latency.p99_ms),
        );
    }
    Ok(json!({"alone": alone, "beside_jobs": beside}))
}

/// The transport alone, asked the same: at the knee's rate, and at its own.
async fn echo(stand: &Stand<'_>, found: &Found) -> anyhow::Result<Value> {
    let server = Server::start(&stand.load.run_with, &["bench", "echo"])?;
    let connections = stand.target.connections.to(&server.address, stand.load.connections).await?;
    let target = Target { connections: connections.into(), process: Some(server.process) };
    println!("\n## Bare tonic, the same messages, no model\n\n{}", Run::HEAD);
    let kinds = Kinds {
        rpcs: Mix::only(Rpc::Answer),
        classes: Mix::only(Class::Interactive),
        conducts: Mix::only(Conduct::Plain),
    };
    let same = stand.run(&target, found.rate, kinds.clone()).await?;
    same.print();
    let (own, steps) = search(stand, &target, (found.rule, 4.0 * found.rate), &kinds).await?;
    println!("\ntransport {:.0} a second within the same bound, {:.0} times the knee", own.rate, own.rate / found.rate);
    Ok(json!({"at_the_knee": same, "knee": own, "steps": steps}))
}

/// What was measured, where and how.
fn heading(stand: &Stand<'_>) {
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = processor.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let (bytes, clips) = stand.target.connections.media();
    let load = stand.load;
    let command: Vec<String> = std::env::args().skip(1).collect();
    println!("`vljepa {}`, version {}", command.join(" "), env!("CARGO_PKG_VERSION"));
    println!(
        "on {cores} cores of {}, Linux {}; client and server share them.",
        processor.map_or("an unknown processor", |(_, name)| name),
        kernel.trim()
    );
    println!(
        "{clips} different media of {:.1} KB on average over {} connections, {} arrivals, deadline {} ms, each rate {:?} after {:?}.\n",
        bytes as f64 / clips as f64 / 1e3,
        load.connections,
        super::arrivals::name(&load.arrivals),
        load.deadline_ms,
        load.duration,
        load.warmup,
    );
}

fn resident_mib(target: &Target) -> Option<u64> {
    Some(target.process?.resident()?.now >> 20)
}
