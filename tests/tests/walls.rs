//! The walls of the map: which crate may import which, what the lower crates know nothing of, and what may be built
//! in at all. Read from `cargo metadata`, so that no edit of a manifest passes unseen.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use serde_json::Value;

/// Who may import whom, directly. What an import brings along is then allowed by the one below.
const MAP: &[(&str, &[&str])] = &[
    ("hearth-storage", &[]),
    // Knows servers only from outside, and any of them.
    ("hearth-bench", &[]),
    // Is tests and nothing else.
    ("hearth-sdk-tests", &["hearth-tests"]),
    ("hearth-engine", &["hearth-storage"]),
    ("hearth-endpoint", &["hearth-engine"]),
    ("hearth-client-api", &["hearth-endpoint", "hearth-engine"]),
    ("hearth-federation", &["hearth-endpoint", "hearth-engine"]),
    ("hearth-gateways", &["hearth-endpoint", "hearth-engine"]),
    (
        "homeserver",
        &[
            "hearth-client-api",
            "hearth-endpoint",
            "hearth-engine",
            "hearth-federation",
            "hearth-gateways",
            "hearth-storage",
        ],
    ),
    (
        "hearth-tests",
        &[
            "hearth-client-api",
            "hearth-endpoint",
            "hearth-engine",
            "hearth-federation",
            "hearth-gateways",
            "hearth-storage",
            "homeserver",
        ],
    ),
];

/// What a crate must not import, nor reach through what it imports.
const UNKNOWN: &[(&str, &[&str])] = &[
    ("hearth-storage", &["axum", "http", "hyper", "reqwest", "ruma"]),
    (
        "hearth-engine",
        &[
            "axum",
            "http-body-util",
            "hyper",
            "reqwest",
            "tower",
            "tower-http",
        ],
    ),
];

/// Where sqlx is named. Below them it is in every program, of course.
const SQLX: &[&str] = &["hearth-storage", "hearth-tests"];

/// Licences that can be given on under Apache-2.0; `deny.toml` has the same list.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Packages that are let in with a licence of their own. MPL-2.0 asks for nothing beyond its own, unchanged, files.
const EXCEPTIONS: &[(&str, &str)] = &[("as_variant", "MPL-2.0")];

/// Licences that are fit besides where a package is reached by tests alone, and so is in nothing that is given on.
/// cargo-deny does not look at these packages.
const TESTS_LICENCES: &[&str] = &["BSL-1.0", "MPL-2.0", "MPL-2.0+"];

/// `cargo metadata` for this machine, with every package in it.
fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// Our own packages by name.
fn ours(metadata: &Value) -> BTreeMap<&str, &Value> {
    let members: BTreeSet<_> = list(metadata, "workspace_members")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let packages = list(metadata, "packages")
        .iter()
        .filter(|package| members.contains(text(package, "id")));
    packages.map(|package| (text(package, "name"), package)).collect()
}

/// What a package imports directly, be it only for its tests. A package may name itself, for what its tests need of it.
fn imports(package: &Value) -> BTreeSet<&str> {
    let names = list(package, "dependencies")
        .iter()
        .map(|dependency| text(dependency, "name"));
    names.filter(|name| *name != text(package, "name")).collect()
}

/// Which package needs which, by ID, where one of the dependency's kinds is as wanted: null, `"build"` or `"dev"`.
fn edges<'a>(metadata: &'a Value, wanted: &dyn Fn(&Value) -> bool) -> BTreeMap<&'a str, Vec<&'a str>> {
    let is_wanted = |dependency: &&Value| {
        list(dependency, "dep_kinds")
            .iter()
            .any(|kind| wanted(&kind["kind"]))
    };
    let of = |node: &'a Value| {
        let to = list(node, "deps").iter().filter(is_wanted);
        let to = to.map(|dependency| text(dependency, "pkg")).collect();
        (text(node, "id"), to)
    };
    list(&metadata["resolve"], "nodes").iter().map(of).collect()
}

/// All that is reached along the edges, the start included.
fn reached_from<'a>(start: Vec<&'a str>, edges: &BTreeMap<&'a str, Vec<&'a str>>) -> BTreeSet<&'a str> {
    let (mut reached, mut next) = (BTreeSet::new(), start);
    while let Some(id) = next.pop() {
        if reached.insert(id) {
            next.extend(edges[id].iter().copied());
        }
    }
    reached
}

#[test]
fn every_crate_is_on_the_map_and_imports_only_along_it() {
    let metadata = metadata();
    let ours = ours(&metadata);
    let map: BTreeMap<_, _> = MAP.iter().copied().collect();
    assert_eq!(
        ours.keys().collect::<Vec<_>>(),
        map.keys().collect::<Vec<_>>(),
        "the map names every crate"
    );
    for (name, package) in &ours {
        let allowed: BTreeSet<_> = map[name].iter().copied().collect();
        let found: BTreeSet<_> = imports(package)
            .into_iter()
            .filter(|import| ours.contains_key(import))
            .collect();
        let against: Vec<_> = found.difference(&allowed).collect();
        assert!(
            against.is_empty(),
            "{name} imports {against:?} against the map of DESIGN.md"
        );
    }
}

#[test]
fn storage_is_named_only_by_engine_homeserver_and_tests() {
    let metadata = metadata();
    for (name, package) in ours(&metadata) {
        if imports(package).contains("hearth-storage") {
            assert!(
                ["hearth-engine", "homeserver", "hearth-tests"].contains(&name),
                "{name} names storage"
            );
        }
    }
}

#[test]
fn sqlx_is_named_only_by_storage_and_tests() {
    let metadata = metadata();
    for (name, package) in ours(&metadata) {
        // A test that needs SQL has a question for storage.
        let named = imports(package).contains("sqlx");
        assert!(!named || SQLX.contains(&name), "{name} names sqlx");
    }
}

#[test]
fn what_is_built_by_default_has_nothing_that_is_for_tests() {
    let metadata = metadata();
    let default_members = list(&metadata, "workspace_default_members");
    for (name, package) in ours(&metadata) {
        if !default_members.contains(&package["id"]) {
            continue;
        }
        let normal = list(package, "dependencies")
            .iter()
            .filter(|dependency| dependency["kind"].is_null());
        for dependency in normal {
            let for_tests = list(dependency, "features")
                .iter()
                .filter_map(Value::as_str)
                .find(|feature| feature.starts_with("test-"));
            assert_eq!(for_tests, None, "{name} asks it of {}", text(dependency, "name"));
        }
    }
    assert!(!default_members.is_empty());
}

#[test]
fn lower_crates_do_not_reach_what_they_know_nothing_of() {
    let metadata = metadata();
    let names: BTreeMap<_, _> = list(&metadata, "packages")
        .iter()
        .map(|package| (text(package, "id"), text(package, "name")))
        .collect();
    let edges = edges(&metadata, &|kind| kind.is_null());
    for (crate_name, unknown) in UNKNOWN {
        let start = names
            .iter()
            .find(|(_, name)| *name == crate_name)
            .map(|(id, _)| *id);
        let reached = reached_from(vec![start.expect("the crate exists")], &edges);
        let reached: BTreeSet<_> = reached.iter().map(|id| names[id]).collect();
        for name in *unknown {
            assert!(!reached.contains(name), "{crate_name} reaches {name}");
        }
    }
}

#[test]
fn everything_built_in_has_a_fitting_licence_and_comes_from_crates_io() {
    let metadata = metadata();
    let members = || {
        list(&metadata, "workspace_members")
            .iter()
            .filter_map(Value::as_str)
            .collect()
    };
    let given_on = reached_from(members(), &edges(&metadata, &|kind| kind != "dev"));
    let resolved = reached_from(members(), &edges(&metadata, &|_| true));
    let built = list(&metadata, "packages")
        .iter()
        .filter(|package| resolved.contains(text(package, "id")));
    let mut checked = 0;
    for package in built {
        let (name, licence) = (text(package, "name"), text(package, "license"));
        let of_tests = !given_on.contains(text(package, "id")) && TESTS_LICENCES.contains(&licence);
        assert!(
            is_fit(licence) || of_tests || EXCEPTIONS.contains(&(name, licence)),
            "{name} has the licence {licence:?}"
        );
        let source = package["source"].as_str();
        let ours = source.is_none() && text(package, "license") == "Apache-2.0";
        let published = source == Some("registry+https://github.com/rust-lang/crates.io-index");
        assert!(ours || published, "{name} comes from {source:?}");
        checked += 1;
    }
    assert!(checked > 100, "only {checked} packages were looked at");
}

/// Whether an SPDX expression lets us choose fitting licences: one of each `OR`, all of each `AND`. Within brackets
/// every licence has to fit, which is stricter than what they say.
fn is_fit(expression: &str) -> bool {
    let is_listed = |licence: &str| LICENCES.contains(&licence.trim());
    if expression.contains('(') {
        let bare = expression.replace(['(', ')'], " ").replace(" AND ", " OR ");
        return bare.split(" OR ").all(is_listed);
    }
    let expression = expression.replace('/', " OR ");
    expression
        .split(" OR ")
        .any(|choice| choice.split(" AND ").all(is_listed))
}

#[test]
fn expressions_of_licences_are_understood() {
    for fit in [
        "MIT",
        "MIT OR Apache-2.0",
        "MIT/Apache-2.0",
        "GPL-3.0-only OR MIT",
        "(MIT OR ISC) AND Zlib",
    ] {
        assert!(is_fit(fit), "{fit}");
    }
    for unfit in [
        "",
        "GPL-3.0-only",
        "AGPL-3.0-only",
        "MIT AND LGPL-2.1-only",
        "(MIT OR ISC) AND GPL-3.0-only",
    ] {
        assert!(!is_fit(unfit), "{unfit}");
    }
}
