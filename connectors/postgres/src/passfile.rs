//! The password file of libpq: `~/.pgpass`, or where `passfile` or `PGPASSFILE` points.
//!
//! As libpq, a file that others may read is not used, and the log says why.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::conninfo::{Env, Place};

/// The password for `place`, from the file that `given` names (already merged with `PGPASSFILE`)
/// or from `~/.pgpass`.
pub(crate) fn password(given: Option<&String>, place: &Place, env: Env<'_>) -> Option<String> {
    let path: PathBuf = match given {
        Some(path) => path.into(),
        None => Path::new(&env("HOME")?).join(".pgpass"),
    };
    let metadata = std::fs::metadata(&path).ok()?;
    if !metadata.is_file() {
        tracing::warn!(path = %path.display(), "the password file is not a plain file and is not used");
        return None;
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        tracing::warn!(
            path = %path.display(),
            "the password file can be read by others and is not used; run `chmod 600` on it"
        );
        return None;
    }
    find(&std::fs::read_to_string(&path).ok()?, place)
}

/// The first line whose first four fields match wins.
fn find(text: &str, place: &Place) -> Option<String> {
    let first = |list: &str| list.split(',').next().unwrap_or("").to_owned();
    // libpq calls every socket in the default folder `localhost`.
    let host = match first(&place.host) {
        host if host.starts_with('/') => "localhost".to_owned(),
        host => host,
    };
    let wanted = [host, first(&place.port), place.database.clone(), place.user.clone()];
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let (fields, password) = fields(line)?;
        let same = fields.iter().zip(&wanted).all(|(field, want)| field == "*" || field == want);
        same.then_some(password)
    })
}

/// Four fields and a password, separated by `:`; a backslash keeps the next character.
fn fields(line: &str) -> Option<([String; 4], String)> {
    let mut parts = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        if character == ':' && parts.len() < 5 {
            parts.push(String::new());
            continue;
        }
        let last = parts.last_mut()?;
        match character {
            '\\' => last.extend(characters.next()),
            c => last.push(c),
        }
    }
    let password = (parts.len() == 5).then(|| parts.pop()).flatten()?;
    Some((parts.try_into().ok()?, password))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(host: &str, user: &str) -> Place {
        Place { host: host.into(), port: "5432".into(), database: "shop".into(), user: user.into() }
    }

    #[test]
    fn the_first_line_that_matches_wins() {
        let text = "# comment\nh:5432:shop:me:one\n*:*:*:me:t\\:wo\nlocalhost:*:*:you:three:x\n";
        assert_eq!(find(text, &place("h", "me")).as_deref(), Some("one"));
        assert_eq!(find(text, &place("other", "me")).as_deref(), Some("t:wo"));
        assert_eq!(find(text, &place("/run/postgresql", "you")).as_deref(), Some("three:x"));
        assert_eq!(find(text, &place("h", "nobody")), None);
    }

    #[test]
    fn a_file_that_others_may_read_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pass");
        std::fs::write(&path, "*:*:*:*:secret\n").unwrap();
        let given = path.to_str().unwrap().to_owned();
        let nothing = |_: &str| None;
        let permit = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        permit(0o644);
        assert_eq!(password(Some(&given), &place("h", "me"), &nothing), None);
        permit(0o600);
        assert_eq!(password(Some(&given), &place("h", "me"), &nothing).as_deref(), Some("secret"));
    }
}
