//! `docs/benchmarks.md`: the figures of several runs of each server, side by side. Only what is between the two
//! marks is written; what people wrote around them stays.

mod aims;
mod figures;

use std::{collections::BTreeMap, fmt::Write as _};

use self::{
    aims::{Context, aim_of},
    figures::{FIGURES, Figure, Spread},
};
use crate::{outcome::Run, table::number};

const BEGIN: &str = "<!-- figures -->";
const END: &str = "<!-- end of figures -->";

#[derive(Debug, thiserror::Error)]
pub enum PageError {
    #[error("there is nothing to compare: no runs were given")]
    NoRuns,
    #[error("the page has no {BEGIN} followed by {END}")]
    NoMarks,
}

/// The runs of one server.
#[derive(Debug)]
pub struct Server<'a> {
    pub name: &'a str,
    pub runs: Vec<&'a Run>,
}

/// Puts the figures into a page. The server of the first run is the one that the aims are for.
pub fn write(page: &str, runs: &[Run], commit_ms: &[f64]) -> Result<String, PageError> {
    let (before, rest) = page.split_once(BEGIN).ok_or(PageError::NoMarks)?;
    let (_, after) = rest.split_once(END).ok_or(PageError::NoMarks)?;
    Ok(format!(
        "{before}{BEGIN}\n{}{END}{after}",
        render(runs, commit_ms)?
    ))
}

fn render(runs: &[Run], commit_ms: &[f64]) -> Result<String, PageError> {
    let servers = by_server(runs);
    if servers.is_empty() {
        return Err(PageError::NoRuns);
    }
    let lines = lines(&servers);
    let commit = Spread::of(commit_ms.iter().copied());
    let mut text = String::new();
    let counts: Vec<String> = servers
        .iter()
        .map(|server| format!("{} of {}", server.runs.len(), server.name))
        .collect();
    let _ = writeln!(
        text,
        "\nRuns: {}. Each cell is minimum – **median** – maximum.",
        counts.join(", ")
    );
    if let Some(commit) = commit {
        let _ = writeln!(
            text,
            "A one-row commit of bare PostgreSQL took {} ms in the same minutes.",
            commit.cell()
        );
    }
    for figure in FIGURES {
        let rows: Vec<String> = lines
            .iter()
            .filter_map(|(name, what)| row(figure, name, what, &servers, commit))
            .collect();
        if rows.is_empty() {
            continue;
        }
        let _ = writeln!(text, "\n### {}\n", figure.title);
        let names: Vec<&str> = servers.iter().map(|server| server.name).collect();
        let compared = if servers.len() > 1 {
            format!(" {} |", figure.compared)
        } else {
            String::new()
        };
        let _ = writeln!(text, "| work | {} |{compared} aim |", names.join(" | "));
        let _ = writeln!(
            text,
            "|---|{}---|",
            "---:|".repeat(names.len() + usize::from(servers.len() > 1))
        );
        for row in rows {
            text.push_str(&row);
        }
    }
    for server in &servers {
        for (scenario, error) in broken(server) {
            let _ = writeln!(text, "\n{}: `{scenario}` could not be run: {error}.", server.name);
        }
    }
    let failures = failures(&servers);
    if !failures.is_empty() {
        let _ = writeln!(text, "\n### Failed operations\n\n{failures}");
    }
    text.push('\n');
    Ok(text)
}

/// In the order in which the servers first appear.
fn by_server(runs: &[Run]) -> Vec<Server<'_>> {
    let mut servers: Vec<Server<'_>> = Vec::new();
    for run in runs {
        match servers.iter_mut().find(|server| server.name == run.server) {
            Some(server) => server.runs.push(run),
            None => servers.push(Server {
                name: &run.server,
                runs: vec![run],
            }),
        }
    }
    servers
}

/// Names and descriptions of all that was measured, in the order of the first run that has it.
fn lines<'a>(servers: &[Server<'a>]) -> Vec<(&'a str, &'a str)> {
    let mut lines: Vec<(&str, &str)> = Vec::new();
    let outcomes = servers
        .iter()
        .flat_map(|server| &server.runs)
        .flat_map(|run| &run.outcomes);
    for outcome in outcomes {
        if !lines.iter().any(|(name, _)| *name == outcome.name) {
            lines.push((&outcome.name, &outcome.what));
        }
    }
    lines
}

fn row(
    figure: &Figure,
    name: &str,
    what: &str,
    servers: &[Server<'_>],
    commit: Option<Spread>,
) -> Option<String> {
    let spreads: Vec<Option<Spread>> = servers.iter().map(|server| figure.spread(name, server)).collect();
    let own = spreads.first().copied().flatten();
    if spreads.iter().all(Option::is_none) {
        return None;
    }
    let other = spreads.get(1).copied().flatten();
    let mut row = format!("| {name} ({what}) |");
    for spread in &spreads {
        let _ = write!(row, " {} |", spread.map_or_else(|| "–".to_owned(), Spread::cell));
    }
    if servers.len() > 1 {
        let ratio = own
            .zip(other)
            .and_then(|(own, other)| figure.ratio(own.median, other.median));
        let _ = write!(row, " {} |", ratio.map_or_else(|| "–".to_owned(), number));
    }
    let context = Context {
        own: own.map(|own| own.median),
        other: other.map(|other| other.median),
        commit_ms: commit.map(|commit| commit.median),
        sibling: &|name| {
            servers
                .first()
                .and_then(|server| figure.spread(name, server))
                .map(|spread| spread.median)
        },
    };
    let aim = aim_of(figure.key, name).map_or_else(String::new, |aim| aim.verdict(&context));
    let _ = writeln!(row, " {aim} |");
    Some(row)
}

fn broken<'a>(server: &Server<'a>) -> BTreeMap<&'a str, &'a str> {
    let broken = server.runs.iter().flat_map(|run| &run.broken);
    broken
        .map(|(scenario, error)| (scenario.as_str(), error.as_str()))
        .collect()
}

fn failures(servers: &[Server<'_>]) -> String {
    let mut text = String::new();
    for server in servers {
        for (name, _) in lines(std::slice::from_ref(server)) {
            let outcomes = server
                .runs
                .iter()
                .flat_map(|run| &run.outcomes)
                .filter(|outcome| outcome.name == name);
            let (mut failed, mut first) = (0, None);
            for outcome in outcomes {
                failed += outcome.failed;
                first = first.or(outcome.first_failure.as_deref());
            }
            if failed > 0 {
                let first = first.unwrap_or("nothing came in time");
                let _ = writeln!(
                    text,
                    "- {} {name}: {failed} in {} runs ({first})",
                    server.name,
                    server.runs.len()
                );
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{measure::Costs, outcome::Outcome};

    fn run(server: &str, per_second: f64, cpu: f64) -> Run {
        let costs = Costs {
            server_cpu_ms: Some(cpu),
            postgres_cpu_ms: Some(0.1),
            ..Costs::default()
        };
        let outcome = Outcome::bare("send-many-rooms", "32 senders, 32 rooms");
        Run {
            server: server.to_owned(),
            outcomes: vec![Outcome {
                per_second: Some(per_second),
                costs,
                ..outcome
            }],
            broken: BTreeMap::new(),
        }
    }

    #[test]
    fn a_page_keeps_its_prose_and_gets_new_figures() {
        let page = format!("# Title\n{BEGIN}\nold\n{END}\nThe end.\n");
        let runs = [
            run("Hearth", 3000.0, 0.1),
            run("Hearth", 2000.0, 0.2),
            run("Hearth", 2500.0, 0.15),
            run("Synapse", 25.0, 30.0),
        ];
        let written = write(&page, &runs, &[2.5]).unwrap();
        assert!(
            written.starts_with("# Title\n") && written.ends_with("The end.\n") && !written.contains("old")
        );
        assert!(
            written.contains("| 2000 – **2500** – 3000 | **25.0** | 100 | ✓ 100 times |"),
            "{written}"
        );
        assert!(written.contains("0.200 – **0.250** – 0.300"), "{written}");
        assert_eq!(write(&written, &runs, &[2.5]).unwrap(), written);
    }

    #[test]
    fn a_page_without_marks_is_left_alone() {
        assert!(matches!(
            write("nothing", &[run("Hearth", 1.0, 1.0)], &[]),
            Err(PageError::NoMarks)
        ));
    }
}
