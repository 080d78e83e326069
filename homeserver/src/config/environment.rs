//! `HEARTH_SECTION__KEY`: variables laid over the configuration file.
//!
//! Two underscores go one level down. Within a list a number names the item: `HEARTH_LISTENER__1__ADDRESS`;
//! without one, a list of at most one item is meant to have its first set: `HEARTH_LISTENER__ADDRESS`. An empty
//! variable counts as not set, as container tools give it for an option left out.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf};

use super::{
    error::{ConfigError, Origin},
    tree::{Node, Value},
};

const PREFIX: &str = "HEARTH_";
const FILE: &str = "HEARTH_CONFIG";

/// The variables that concern us, by name.
#[derive(Debug)]
pub(super) struct Environment {
    variables: BTreeMap<String, String>,
    file: Option<PathBuf>,
}

impl Environment {
    pub(super) fn read(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let mut found = Self {
            variables: BTreeMap::new(),
            file: None,
        };
        for (name, value) in variables {
            let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else {
                continue;
            };
            if value.is_empty() || is_foreign(name) {
                continue;
            }
            if name == FILE {
                found.file = Some(PathBuf::from(value));
                continue;
            }
            let value = value.into_string().map_err(|_| {
                ConfigError::new(Some(Origin::Variable(name.to_owned())), "", "is not UTF-8 text")
            })?;
            found.variables.insert(name.to_owned(), value);
        }
        Ok(found)
    }

    /// What `HEARTH_CONFIG` names.
    pub(super) fn config_file(&self) -> Option<PathBuf> {
        self.file.clone()
    }

    /// Sets in `root` what the variables say. A shorter name comes before the longer ones that go into it.
    pub(super) fn lay_over(self, root: &mut Node) -> Result<(), ConfigError> {
        for (name, raw) in self.variables {
            let key = name[PREFIX.len()..].to_ascii_lowercase();
            let steps: Vec<_> = key.split("__").collect();
            set(
                root,
                &steps,
                Node {
                    value: Value::Raw(raw),
                    origin: Origin::Variable(name),
                },
            )?;
        }
        Ok(())
    }
}

/// Names that look like ours and aren't. Kubernetes gives every pod the addresses of the services beside it, those
/// of a service called `hearth` too; and the tests have variables of their own.
fn is_foreign(name: &str) -> bool {
    let foreign = ["HEARTH_SERVICE_", "HEARTH_PORT_", "HEARTH_TEST_"];
    foreign.iter().any(|prefix| name.starts_with(prefix)) || name == "HEARTH_PORT"
}

fn set(node: &mut Node, steps: &[&str], leaf: Node) -> Result<(), ConfigError> {
    let Some((step, rest)) = steps.split_first() else {
        *node = leaf;
        return Ok(());
    };
    node.resolve();
    let new = || Node {
        value: Value::Table(BTreeMap::new()),
        origin: leaf.origin.clone(),
    };
    match &mut node.value {
        Value::Array(items) => {
            let index = match (step.parse::<usize>(), items.len()) {
                (Ok(index), length) if index <= length => index,
                (Err(_), 0 | 1) => return set(first(items, new()), steps, leaf),
                (_, length) => {
                    let expected =
                        format!("expected the number of one of the {length} items, counted from 0");
                    return Err(ConfigError::new(Some(leaf.origin), "", expected));
                }
            };
            if index == items.len() {
                items.push(new());
            }
            set(&mut items[index], rest, leaf)
        }
        Value::Table(table) if step.parse::<usize>().is_ok() && table.is_empty() => {
            node.value = Value::Array(Vec::new());
            set(node, steps, leaf)
        }
        Value::Table(table) => set(table.entry((*step).to_owned()).or_insert_with(new), rest, leaf),
        // A section that was given as something else: reading it into its type says what it should be.
        _ => {
            node.value = Value::Table(BTreeMap::from([((*step).to_owned(), new())]));
            set(node, steps, leaf)
        }
    }
}

fn first(items: &mut Vec<Node>, new: Node) -> &mut Node {
    if items.is_empty() {
        items.push(new);
    }
    &mut items[0]
}
