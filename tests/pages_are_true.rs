//! What the pages say is what the code is: the README's program, the table of bounds, the links.

use entity_runtime::Limits;
use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn page(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap()
}

#[test]
fn the_program_of_the_readme_is_the_counter_example() {
    let readme = page("README.md");
    let program = readme.split("```rust\n").nth(1).unwrap().split("```\n").next().unwrap();
    let example = page("examples/counter.rs");
    let (_, code) = example.split_once("\n\n").unwrap();
    assert_eq!(program, code, "README.md and examples/counter.rs are to show the same program");
}

#[test]
fn the_table_of_bounds_has_every_field_with_its_default() {
    let table = page("docs/limits.md");
    let limits = format!("{:?}", Limits::default());
    let fields = limits.strip_prefix("Limits { ").unwrap().strip_suffix(" }").unwrap();
    for field in fields.split(", ") {
        let (name, default) = field.split_once(": ").unwrap();
        assert!(
            table.contains(&format!("| `{name}` | {default} |")),
            "docs/limits.md is to say that `{name}` is {default}"
        );
    }
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut pages = vec!["README.md".into(), "ARCHITECTURE.md".into(), "CHANGELOG.md".into()];
    for directory in ["docs", "docs/decisions"] {
        for entry in fs::read_dir(root().join(directory)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(format!("{directory}/{}", path.file_name().unwrap().display()));
            }
        }
    }
    for name in pages {
        let here = root().join(&name);
        for link in page(&name).split("](").skip(1) {
            let target = link.split(')').next().unwrap();
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            if path.starts_with("http") {
                continue;
            }
            let file = if path.is_empty() { here.clone() } else { here.parent().unwrap().join(path) };
            assert!(file.exists(), "{name} links to {target}, which is not there");
            if !heading.is_empty() {
                let text = fs::read_to_string(&file).unwrap();
                assert!(headings(&text).any(|there| there == heading), "{name}: no heading for {target}");
            }
        }
    }
}

/// The anchors of a page's headings, as code forges make them.
fn headings(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter(|line| line.starts_with('#')).map(|line| {
        let words = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        words.chars().filter(|letter| letter.is_alphanumeric() || "-_".contains(*letter)).collect()
    })
}
