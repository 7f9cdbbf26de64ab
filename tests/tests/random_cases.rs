//! Random whole runs end as their images and options ask for. The same cases as
//! against stock, for where there is no stock.

use std::io::Write;

use bdsync_tests::case::Case;
use bdsync_tests::{Rng, WorkDir, bdsync};

#[test]
fn random_cases_leave_the_wanted_target() {
    let program = bdsync();
    let cases = std::env::var("RANDOM_CASES").map_or(300, |text| text.parse().expect("RANDOM_CASES is a number"));
    let mut rng = Rng::from_environment(2);
    let mut failures = Vec::new();
    for number in 0..cases {
        let case = Case::random(rng.next_u64());
        if let Err(why) = case.check(&WorkDir::new(), &program, &program, &program) {
            let (source, target) = (case.source.len(), case.target.len());
            failures.push(format!("case {number}: {source} and {target} bytes, {:?}: {why}", case.options));
        }
    }
    let line = format!("{} of {cases} random cases left the wanted target\n", cases - failures.len());
    let _ = std::io::stderr().write_all(line.as_bytes());
    let first = failures[..failures.len().min(10)].join("\n");
    assert!(failures.is_empty(), "{} failures, the first are\n{first}", failures.len());
}
