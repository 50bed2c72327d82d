//! A node's TOML file.

use super::settings::{Said, SettingsError};
use std::{fs::File, io::Read, path::Path};

/// Most bytes of a configuration file; a longer one is refused.
const BYTES_MAX: u64 = 1 << 20;

/// Reads what a file says of a node.
pub(super) fn read(path: &Path) -> Result<Said, SettingsError> {
    let unreadable =
        |why: std::io::Error| SettingsError::Unreadable { path: path.to_owned(), why: why.to_string() };
    let mut text = String::new();
    File::open(path)
        .map_err(unreadable)?
        .take(BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    if BYTES_MAX < text.len() as u64 {
        let why = format!("it has more than {BYTES_MAX} bytes");
        return Err(SettingsError::Unreadable { path: path.to_owned(), why });
    }
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Said, SettingsError> {
    toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| {
            let before = text.get(..span.start).unwrap_or_default();
            1 + before.matches('\n').count()
        });
        SettingsError::File { path: path.to_owned(), line, why: error.message().to_owned() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(text: &str) -> String {
        parse(Path::new("node.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn a_key_nobody_knows_is_named_with_its_file_and_line() {
        let error = error_of("name = \"a\"\n\nlisen = \"127.0.0.1:7001\"\n");
        assert!(
            error.starts_with("node.toml, line 3: unknown field `lisen`, expected one of `name`"),
            "{error}"
        );
        assert!(error.contains("`listen`"), "{error}");
    }

    #[test]
    fn a_value_that_cannot_be_is_named_with_its_line() {
        let weight = error_of("name = \"a\"\nweight = 0");
        assert_eq!(weight, "node.toml, line 2: the weight of a node is a whole number from 1 to 100");
        let listen = error_of("listen = \"localhost\"");
        assert!(listen.starts_with("node.toml, line 1: \"localhost\" is no address"), "{listen}");
        assert!(error_of("join = \"a:1\"").contains("expected a sequence"));
        assert!(error_of("name = ").starts_with("node.toml, line 1: "));
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("none.toml");
        let error = read(&path).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot read {}: ", path.display())), "{error}");
    }

    #[test]
    fn a_file_of_no_end_is_not_taken_into_memory() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("long.toml");
        std::fs::write(&path, "#".repeat(BYTES_MAX as usize + 1)).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("more than 1048576 bytes"));
    }
}
