//! Settings in layers: who wins, what is refused and how it is told. The tables go through every setting there is.

use std::path::Path;
use std::process::{Command, Output};

use proptest::prelude::*;
use vljepa::settings::{Bounds, Effective, Flag, Setting, Settings, SettingsError, Sources, Value};

const FILE: &str = "server.toml";

/// Reads a file's text, some variables and some flags.
fn read(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Effective, SettingsError> {
    let variable =
        |name: &str| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string());
    let flag = |(key, value): &(&str, &str)| Flag::set(&format!("{key}={value}")).expect("a pair");
    let flags: Vec<Flag> = flags.iter().map(flag).collect();
    Effective::of(&Sources {
        file: Some((Path::new(FILE), file)),
        environment: &|name| Ok(variable(name)),
        flags: &flags,
    })
}

fn told(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> String {
    read(file, environment, flags).expect_err("it cannot be meant").to_string()
}

/// Some values that a setting may have, as text.
fn samples(setting: &Setting) -> Vec<String> {
    match &setting.bounds {
        Bounds::Number(bounds) => {
            let (least, most) = (*bounds.start(), *bounds.end());
            [least, least + (most - least) / 2, most].map(|number| number.to_string()).into()
        }
        Bounds::Switch => vec!["true".into(), "false".into()],
        Bounds::Words(words) => words.iter().map(|word| word.to_string()).collect(),
        Bounds::Text(what) if what.starts_with("an address") => vec!["127.0.0.1:1".into(), "[::1]:65535".into()],
        Bounds::Text(_) => vec!["one".into(), "two".into()],
    }
}

/// One line of a settings file.
fn line(setting: &Setting, value: &str) -> String {
    let value = match setting.bounds {
        Bounds::Number(_) | Bounds::Switch => value.to_owned(),
        _ => format!("{value:?}"),
    };
    format!("[{}]\n{} = {value}\n", setting.concern, setting.name)
}

/// Settings that another one is of no use without.
fn companions(key: &str) -> &'static [&'static str] {
    match key {
        "tls.certificate" => &["tls.key"],
        "tls.key" => &["tls.certificate"],
        "tls.client_ca" => &["tls.certificate", "tls.key"],
        "client.certificate" => &["client.key"],
        "client.key" => &["client.certificate"],
        _ => &[],
    }
}

proptest! {
    /// Of the layers that give a setting, the highest one counts, and is named; all other settings keep their defaults.
    #[test]
    fn the_highest_layer_wins_for_every_setting(
        given in prop::array::uniform3(any::<bool>()),
        picks in prop::array::uniform3(any::<prop::sample::Index>()),
    ) {
        for setting in Settings::default().list() {
            let samples = samples(&setting);
            let [file, variable, flag] = picks.map(|pick| samples[pick.index(samples.len())].clone());
            let key = setting.key();
            let text = if given[0] { line(&setting, &file) } else { String::new() };
            let variables = [(setting.variable, &*variable)];
            let mut flags = vec![(&*key, &*flag)];
            flags.truncate(given[2].into());
            let companions = if given == [false; 3] { &[] } else { companions(&key) };
            flags.extend(companions.iter().map(|companion| (*companion, "x")));
            let effective = read(&text, &variables[..given[1].into()], &flags).expect("all are allowed");
            let (value, origin) = match given {
                [_, _, true] => (flag, format!("flag --set {key}")),
                [_, true, _] => (variable, format!("environment {}", setting.variable)),
                [true, _, _] => (file, format!("file {FILE}")),
                _ => (setting.value.to_string(), "default".into()),
            };
            for (now, from) in effective.list() {
                if now.key() == key {
                    let hidden = now.value == Value::Hidden;
                    prop_assert_eq!(now.value.to_string(), if hidden { "(hidden)" } else { &value });
                    prop_assert_eq!(from.to_string(), &*origin);
                } else if !companions.contains(&&*now.key()) {
                    prop_assert_eq!(from.to_string(), "default");
                }
            }
        }
    }
}

#[test]
fn every_default_is_within_its_bounds_and_every_name_stands_once() {
    let list = Settings::default().list();
    for names in
        [list.iter().map(Setting::key).collect::<Vec<_>>(), list.iter().map(|one| one.variable.into()).collect()]
    {
        let distinct: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{names:?}");
    }
    for setting in list {
        assert!(setting.about.ends_with('.') && !setting.concern_about.is_empty(), "{setting:?}");
        if let (Bounds::Number(bounds), Value::Number(value)) = (&setting.bounds, &setting.value) {
            assert!(bounds.contains(value) && !setting.unit().is_empty(), "{setting:?}");
        }
    }
}

#[test]
fn what_is_beyond_a_bound_is_refused_in_every_layer() {
    for setting in Settings::default().list() {
        let (key, bounds) = (setting.key(), setting.bounds.to_string());
        let wrong = match &setting.bounds {
            Bounds::Number(bounds) => (bounds.end() + 1).to_string(),
            Bounds::Text(what) if !what.starts_with("an address") => continue,
            _ => "nonsense".into(),
        };
        let in_file = if setting.bounds == Bounds::Switch { "1" } else { &wrong };
        for (place, error) in [
            (format!("{FILE}:2: {key} is "), told(&line(&setting, in_file), &[], &[])),
            (format!("{} is ", setting.variable), told("", &[(setting.variable, &wrong)], &[])),
            (format!("--set {key} is "), told("", &[], &[(&key, &wrong)])),
        ] {
            assert!(error.starts_with(&place) && error.ends_with(&format!(", must be {bounds}")), "{error}");
        }
    }
}

#[test]
fn complaints_name_place_value_and_what_was_meant() {
    for (file, error) in [
        ("[queue]\nitems_max = 0", "server.toml:2: queue.items_max is 0, must be a whole number from 1 to 65536"),
        (
            "[queue]\n\nitems_max = \"9\"",
            "server.toml:3: queue.items_max is \"9\", must be a whole number from 1 to 65536",
        ),
        ("[queue]\nitems_max = -1", "server.toml:2: queue.items_max is -1, must be a whole number from 1 to 65536"),
        ("[queue]\nitems_max = 1.0", "server.toml:2: queue.items_max is 1.0, must be a whole number from 1 to 65536"),
        (
            "[queue]\nitems_max = [1]",
            "server.toml:2: queue.items_max is of type array, must be a whole number from 1 to 65536",
        ),
        ("[log]\nformat = 1", "server.toml:2: log.format is 1, must be one of text, json"),
        ("[server]\naddr = \"x\"", "server.toml:2: server.addr is \"x\", must be an address such as 127.0.0.1:50051"),
        ("[queue]\nitem_max = 1", "server.toml:2: queue.item_max: no such setting, did you mean queue.items_max?"),
        (
            "[service]\nbatch_cost_max = 1",
            "server.toml:2: service.batch_cost_max: no such setting, did you mean queue.batch_cost_max?",
        ),
        ("[media]\n[queu]", "server.toml:2: [queu]: no such setting, did you mean [queue]?"),
        ("[harbour]", "server.toml:1: [harbour]: no such setting"),
    ] {
        assert_eq!(told(file, &[], &[]), error);
    }
    for file in ["items_max = 1", "[queue", "[queue]\nitems_max = 1\nitems_max = 2", "[queue]\nitems_max ="] {
        let error = told(file, &[], &[]);
        assert!(error.starts_with(FILE) && error.ends_with("; settings stand in tables, such as [queue]"), "{error}");
    }
    let error = told("", &[], &[("queue.item_max", "1")]);
    assert_eq!(error, "--set queue.item_max: no such setting, did you mean queue.items_max?");
    let error = told("", &[("VLJEPA_THREADS", "-1")], &[]);
    assert_eq!(error, "VLJEPA_THREADS is \"-1\", must be a whole number from 0 to 4096");
}

#[test]
fn a_wrong_value_is_refused_also_where_a_higher_layer_covers_it() {
    let covered = told("[queue]\nitems_max = 0", &[("VLJEPA_QUEUE_ITEMS_MAX", "5")], &[("queue.items_max", "6")]);
    assert!(covered.starts_with("server.toml:2: queue.items_max is 0"), "{covered}");
}

#[test]
fn what_is_of_no_use_alone_is_refused() {
    for (file, error) in [
        ("[tls]\ncertificate = \"a\"", "tls.key is missing: tls.certificate is of no use without it"),
        ("[tls]\nkey = \"a\"", "tls.certificate is missing: tls.key is of no use without it"),
        ("[tls]\nclient_ca = \"a\"", "tls.certificate is missing: tls.client_ca is of no use without it"),
        ("[client]\nkey = \"a\"", "client.certificate is missing: client.key is of no use without it"),
    ] {
        assert_eq!(told(file, &[], &[]), error);
    }
    // Of two layers that belong together.
    read("[tls]\nkey = \"a\"", &[("VLJEPA_TLS_CERTIFICATE", "b")], &[]).expect("both are set");
}

#[test]
fn blank_variables_count_as_none_and_the_later_of_two_flags_counts() {
    let effective =
        read("", &[("VLJEPA_THREADS", " ")], &[("cpu.threads", "2"), ("cpu.threads", "3")]).expect("allowed");
    assert_eq!(effective.settings.cpu.threads, 3);
    let effective = read("", &[("VLJEPA_THREADS", " "), ("VLJEPA_LOG", "")], &[]).expect("allowed");
    assert_eq!(effective.settings, Settings::default());
}

fn settings(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_vljepa"));
    program.arg("settings").args(arguments).envs(variables.iter().copied()).output().expect("the binary runs")
}

#[test]
fn the_binary_tells_every_setting_with_its_origin() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join(FILE);
    std::fs::write(&file, "[queue]\nitems_max = 7\ncost_max = 8\nbatch_items_max = 9\n").expect("written");
    let path = file.to_str().expect("a plain path");
    let variables = [("VLJEPA_CONFIG", path), ("VLJEPA_QUEUE_COST_MAX", "80"), ("VLJEPA_BATCH_ITEMS_MAX", "90")];
    let output = settings(&["--json", "--set", "queue.batch_items_max=900"], &variables);
    assert!(output.status.success(), "{output:?}");
    let lines: Vec<serde_json::Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("a JSON object a line"))
        .collect();
    assert_eq!(lines.len(), Settings::default().list().len());
    for (key, value, origin) in [
        ("queue.items_max", 7, format!("file {path}")),
        ("queue.cost_max", 80, "environment VLJEPA_QUEUE_COST_MAX".into()),
        ("queue.batch_items_max", 900, "flag --set queue.batch_items_max".into()),
        ("queue.batch_cost_max", 32768, "default".into()),
    ] {
        let line = lines.iter().find(|line| line["setting"] == key).expect("every setting");
        assert_eq!((line["value"].as_i64(), line["origin"].as_str()), (Some(value), Some(&*origin)), "{line}");
        assert!(line["bounds"].as_str().is_some_and(|bounds| bounds.starts_with("a whole number")), "{line}");
    }
}

#[test]
fn the_binary_reads_the_example_it_prints_and_names_slips_of_the_pen() {
    let example = settings(&["--example"], &[]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join(FILE);
    std::fs::write(&file, &example.stdout).expect("written");
    let path = file.to_str().expect("a plain path");
    let output = settings(&["--config", path], &[("VLJEPA_QUEUE_ITEM_MAX", "1")]);
    assert!(output.status.success(), "{output:?}");
    let warned = String::from_utf8_lossy(&output.stderr);
    assert_eq!(warned, "warning: VLJEPA_QUEUE_ITEM_MAX is no setting, did you mean VLJEPA_QUEUE_ITEMS_MAX?\n");

    for (arguments, told) in [
        (["--config", "/nowhere/x.toml"], "error: cannot read the settings file /nowhere/x.toml: "),
        (["--set", "queue.items_max"], "error: --set is \"queue.items_max\", must be KEY=VALUE"),
        (
            ["--set", "queue.items_max=0"],
            "error: --set queue.items_max is \"0\", must be a whole number from 1 to 65536",
        ),
        (["--set", "cpu.isa=mmx"], "error: --set cpu.isa: "),
    ] {
        let output = settings(&arguments, &[]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).starts_with(told), "{output:?}");
    }
}
