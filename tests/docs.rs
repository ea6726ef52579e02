//! The documentation says what the program does.

use std::process::Command;

fn read(path: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn bodycam(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_bodycam")).args(args).output().unwrap();
    assert!(output.status.success(), "bodycam {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_reference_of_settings_is_current() {
    let (made, kept) = (bodycam(&["config", "reference"]), read("docs/configuration.md"));
    let differs = made.lines().zip(kept.lines()).find(|(a, b)| a != b);
    assert!(made == kept, "run `make docs`; the first line that differs: {differs:?}");
}

/// The subcommands that a help page lists.
fn subcommands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|l| *l != "Commands:").skip(1);
    listed
        .take_while(|l| !l.is_empty())
        .filter_map(|l| l.strip_prefix("  ").filter(|l| !l.starts_with(' '))?.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_subcommand_has_help_with_an_example() {
    let mut todo = vec![Vec::<String>::new()];
    let mut leaves = 0;
    while let Some(path) = todo.pop() {
        let args: Vec<&str> = path.iter().map(String::as_str).chain(["--help"]).collect();
        let help = bodycam(&args);
        let below = subcommands(&help);
        leaves += usize::from(below.is_empty());
        {
            let example = format!("bodycam {}", path.join(" "));
            let after =
                help.split_once("Example").unwrap_or_else(|| panic!("no example in {example} --help")).1;
            assert!(after.contains(&example), "the example of '{example}' does not call it:\n{after}");
        }
        todo.extend(below.into_iter().map(|name| path.iter().cloned().chain([name]).collect()));
    }
    assert!(leaves >= 20, "only {leaves} subcommands were found");
}

#[test]
fn the_smallest_configuration_of_the_readme_is_usable() {
    let readme = read("README.md");
    let toml = readme.split_once("```toml\n").unwrap().1.split_once("```").unwrap().0;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bodycam.toml");
    std::fs::write(&path, toml).unwrap();
    let check = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bodycam"));
        command.args(["config", "check", "--config"]).arg(&path);
        command
    };
    // It names a variable, which whoever starts the gateway sets.
    let output = check().env("SHOP_PASSWORD", "x").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("usable"));
    assert!(!check().env_remove("SHOP_PASSWORD").output().unwrap().status.success());
}

#[test]
fn links_of_the_documentation_lead_somewhere() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![root.join("README.md"), root.join("CHANGELOG.md")];
    for dir in ["docs", "docs/adr"] {
        pages.extend(std::fs::read_dir(root.join(dir)).unwrap().map(|entry| entry.unwrap().path()));
    }
    let mut checked = 0;
    for page in pages.iter().filter(|p| p.extension().is_some_and(|e| e == "md")) {
        let text = std::fs::read_to_string(page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") || link.starts_with('#') {
                continue;
            }
            let target = page.parent().unwrap().join(link.split('#').next().unwrap());
            assert!(target.exists(), "{}: {link} leads nowhere", page.display());
            checked += 1;
        }
    }
    assert!(checked >= 20, "only {checked} links were found");
}

#[test]
fn the_capacity_page_is_what_the_measurements_and_assumptions_give() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("python3").arg(root.join("docs/capacity.py")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let made = String::from_utf8(output.stdout).unwrap();
    let page = read("docs/capacity.md");
    let kept =
        page.split_once("<!-- made by capacity.py -->\n").unwrap().1.split_once("<!-- end -->").unwrap().0;
    assert!(made == kept, "run `python3 docs/capacity.py --write`; it gives:\n{made}");
    assert!(made.contains("| agents | 10 | 1,000 | 100,000 |"), "{made}");
}
