//! Which endpoints of the specification are served: `docs/SPEC_COVERAGE.md` is made here. The endpoints are those that
//! ruma knows, read from its sources; whether one is served is asked of a running server.

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use hearth_tests::Server;
use reqwest::Method;
use serde_json::Value;

const APIS: [(&str, &str); 2] = [
    ("Client-server API", "ruma-client-api"),
    ("Server-server API", "ruma-federation-api"),
];
const INTRODUCTION: &str = "\
# Coverage of the specification

Made by the test `spec_coverage` from ruma's list of endpoints and a running server's answers; it fails when this page
is out of date, and writes it with `HEARTH_TEST_WRITE=1`. An endpoint counts as served when its newest stable path and
method have a route. Endpoints that are only proposed are in [PROTOCOL_EXTENSIONS.md](PROTOCOL_EXTENSIONS.md).
";

/// An endpoint with a stable path: its area and name in ruma, its method, and that path.
type Endpoint = ((String, String), Method, String);

/// Where cargo keeps the sources of a package.
fn sources(package: &str) -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let manifest = packages
        .iter()
        .find(|known| known["name"] == package)
        .and_then(|known| known["manifest_path"].as_str())
        .expect("the package is built in");
    Path::new(manifest).with_file_name("src")
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("the sources can be listed");
    let paths = entries.map(|entry| entry.expect("the sources can be listed").path());
    paths
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .collect()
}

/// What the first `metadata!` of a file says, if it has a stable path that is not on its way out.
fn endpoint(root: &Path, file: &Path) -> Option<Endpoint> {
    let source = fs::read_to_string(file).expect("sources are text");
    let metadata = source.split_once("metadata! {")?.1;
    let (mut method, mut stable) = (None, None);
    for line in metadata.lines().map(str::trim) {
        if let Some(named) = line.strip_prefix("method: ") {
            method = named.trim_end_matches(',').parse().ok();
        } else if line.starts_with("path: ") || line.starts_with(|first: char| first.is_ascii_digit()) {
            stable = line
                .split('"')
                .nth_back(1)
                .filter(|path| path.starts_with('/') && !path.contains("/unstable/"));
        } else if line.starts_with("///") || line.starts_with("#[") {
            break;
        }
    }
    let mut names: Vec<_> = file
        .strip_prefix(root)
        .ok()?
        .with_extension("")
        .iter()
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    // A file for each version of an endpoint lies in a directory with its name.
    names.retain(|name| !name.starts_with('v') || name.len() > 2);
    Some((
        (names.first()?.clone(), names.last()?.clone()),
        method?,
        stable?.to_owned(),
    ))
}

/// Whether the server has a route for it: without one it says `M_UNRECOGNIZED`.
async fn is_served(server: &Server, method: &Method, path: &str) -> bool {
    let filled: Vec<&str> = path
        .split('/')
        .map(|part| if part.starts_with('{') { "x" } else { part })
        .collect();
    let client = server.anonymous();
    let request = client.request(method.clone(), &filled.join("/"));
    let answer = client.send_request(request).await;
    answer.body["errcode"] != "M_UNRECOGNIZED"
}

#[tokio::test]
async fn the_page_on_coverage_says_what_is_served() {
    let server = Server::start_with(|settings| settings.federation.enabled = true).await;
    let mut page = INTRODUCTION.to_owned();
    for (title, package) in APIS {
        let root = sources(package);
        let endpoints: BTreeMap<_, _> = files(&root)
            .iter()
            .filter_map(|file| endpoint(&root, file))
            .map(|(name, method, path)| ((name, path), method))
            .collect();
        assert!(
            endpoints.len() > 20,
            "{package} has {} endpoints",
            endpoints.len()
        );
        let (mut rows, mut count) = (String::new(), 0);
        for (((area, name), path), method) in &endpoints {
            let served = is_served(&server, method, path).await;
            count += usize::from(served);
            let mark = if served { "yes" } else { "" };
            writeln!(rows, "| {mark} | {area} | `{name}` | `{method} {path}` |").expect("a string takes it");
        }
        write!(
            page,
            "\n## {title}: {count} of {}\n\n| served | area | endpoint | request |\n|---|---|---|---|\n{rows}",
            endpoints.len()
        )
        .expect("a string takes it");
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/SPEC_COVERAGE.md");
    if env::var_os("HEARTH_TEST_WRITE").is_some() {
        fs::write(&file, &page).expect("the page can be written");
    }
    let written = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        written == page,
        "docs/SPEC_COVERAGE.md is out of date: HEARTH_TEST_WRITE=1 cargo nextest run -p hearth-tests spec_coverage"
    );
}
