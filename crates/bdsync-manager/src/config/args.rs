//! `bdsync_args`: options in the words of the bdsync command, each put where it belongs.

use std::ffi::OsStr;
use std::str::FromStr;

use bdsync_engine::SizePolicy;
use bdsync_engine::diff::NamedDigest;
use bdsync_hash::Algorithm;
use lexopt::Arg;

use super::task::Compare;

/// Changes `compare` as the options say.
pub(crate) fn take(text: &str, compare: &mut Compare) -> Result<(), String> {
    let words = shlex::split(text).ok_or("a quote is not closed")?;
    let mut parser = lexopt::Parser::from_args(words);
    parser.set_short_equals(false);
    while let Some(argument) = parser.next().map_err(|error| error.to_string())? {
        let name = match argument {
            Arg::Short(letter) => LETTERS
                .iter()
                .find(|(known, _)| *known == letter)
                .map(|(_, name)| *name)
                .ok_or_else(|| format!("there is no option -{letter}"))?,
            Arg::Long(name) => long(name)?,
            Arg::Value(value) => return Err(format!("only options may stand here, not {}", value.to_string_lossy())),
        };
        let mut value = || -> Result<String, String> {
            let value = parser.value().map_err(|error| error.to_string())?;
            Ok(value.to_string_lossy().into_owned())
        };
        match name {
            "hash" => compare.digest = digest(&value()?)?,
            "checksum" => compare.checksum = Some(digest(&value()?)?),
            "blocksize" => {
                let value = value()?;
                compare.block_size = value.trim().parse().map_err(|_| format!("{value} is no block size"))?;
            }
            "twopass" => compare.two_pass = true,
            "zeroblocks" => compare.zero_blocks = true,
            "flushcache" => compare.flush_cache = true,
            "diffsize" => compare.size_policy = diffsize(parser.optional_value().as_deref())?,
            // A display is the manager's own, and a fixed salt is for tests.
            "progress" => drop(parser.optional_value()),
            "verbose" | "warndev" | "fixedsalt" => {}
            "remdata" => return Err("--remdata would copy the target over the source; swap the two paths".into()),
            other => return Err(format!("--{other} is none of a task's options")),
        }
    }
    Ok(())
}

const LETTERS: &[(char, &str)] = &[
    ('s', "server"),
    ('p', "patch"),
    ('w', "warndev"),
    ('v', "verbose"),
    ('h', "hash"),
    ('b', "blocksize"),
    ('c', "checksum"),
    ('t', "twopass"),
    ('r', "remdata"),
    ('d', "diffsize"),
    ('z', "zeroblocks"),
    ('f', "fixedsalt"),
    ('F', "flushcache"),
    ('H', "help"),
];

fn long(name: &str) -> Result<&'static str, String> {
    let names = || LETTERS.iter().map(|(_, name)| *name).chain(["progress"]);
    if let Some(exact) = names().find(|known| *known == name) {
        return Ok(exact);
    }
    let found: Vec<_> = names().filter(|known| known.starts_with(name)).collect();
    match found[..] {
        [one] => Ok(one),
        [] => Err(format!("there is no option --{name}")),
        _ => Err(format!(
            "--{name} could be {}",
            found.iter().map(|name| format!("--{name}")).collect::<Vec<_>>().join(" or ")
        )),
    }
}

fn digest(name: &str) -> Result<NamedDigest, String> {
    let algorithm = Algorithm::from_str(name).map_err(|error| error.to_string())?;
    Ok(NamedDigest { algorithm, name: name.into() })
}

fn diffsize(value: Option<&OsStr>) -> Result<SizePolicy, String> {
    let value = value.map(|value| value.to_string_lossy().into_owned()).unwrap_or_default();
    let mut policy = None;
    for word in value.split(',').filter(|word| !word.is_empty()) {
        let is = |name: &str| name.starts_with(word);
        match () {
            () if is("strict") => policy = Some(SizePolicy::Strict),
            () if is("minsize") => policy = Some(SizePolicy::MinSize),
            () if is("resize") => policy = Some(SizePolicy::Resize),
            () if is("warn") => {}
            () => return Err(format!("{word} is no size policy")),
        }
    }
    Ok(policy.unwrap_or(SizePolicy::Resize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_mean_what_they_mean_to_bdsync() {
        let mut compare = Compare::default();
        take("--twop -b 8192 --hash=sha256 -dminsize,warn -z --progress --flushcache -v -c 'md5'", &mut compare)
            .unwrap();
        assert!(compare.two_pass && compare.zero_blocks && compare.flush_cache);
        assert_eq!((compare.block_size, compare.size_policy), (8192, SizePolicy::MinSize));
        assert_eq!(compare.digest.name, "sha256");
        assert_eq!(compare.checksum.map(|digest| digest.name), Some("md5".into()));
        let mut compare = Compare::default();
        take("--diffsize", &mut compare).unwrap();
        assert_eq!(compare.size_policy, SizePolicy::Resize);
    }

    #[test]
    fn what_a_task_cannot_mean_is_refused() {
        for text in ["--remdata", "--server", "-x", "--nonsense", "operand", "'open", "--hash=no", "-b x", "--h"] {
            assert!(take(text, &mut Compare::default()).is_err(), "{text}");
        }
    }
}
