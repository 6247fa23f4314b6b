use super::*;

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    folder
}

fn check_error(files: &[(&str, &str)], parts: &[&str]) {
    let folder = folder(files);
    let error = load(&folder.path().join(files[0].0)).unwrap_err().to_string();
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
}

#[test]
fn types_vanish_and_relative_imports_follow() {
    let folder = folder(&[
        (
            "total.ts",
            "import type { Event } from \"lagless\";\nimport { price } from \"./lib/price.ts\";\nimport { EOL } from \"node:os\";\n\
             interface Order { n: number }\nexport default (e: Event<Order>): number => price(e.data.n) + EOL.length;\n",
        ),
        ("lib/price.ts", "import { total } from \"../total2.js\";\nexport const price = (n: number) => total(n);\n"),
        ("total2.js", "export * from \"./total.ts\";\nexport const total = n => n;\n"),
    ]);
    let package = load(&folder.path().join("total.ts")).unwrap();
    let specifiers: Vec<_> = package.modules.iter().map(|module| module.specifier.as_str()).collect();
    assert_eq!(
        specifiers,
        ["file:///function/total.ts", "file:///function/lib/price.ts", "file:///function/total2.js"]
    );
    assert!(!package.modules[0].code.contains("lagless"));
    assert!(!package.modules[0].code.contains("Order"));
    assert!(!package.modules[0].source_map.is_empty());
    assert!(package.modules[2].source_map.is_empty());
    assert_eq!(package.files.len(), 3);
    assert_eq!(package.hash.len(), 64);
}

#[test]
fn the_hash_follows_the_content() {
    let first = folder(&[("a.js", "export default 1")]);
    let second = folder(&[("a.js", "export default 1")]);
    let third = folder(&[("a.js", "export default 2")]);
    let hash = |folder: &tempfile::TempDir| load(&folder.path().join("a.js")).unwrap().hash;
    assert_eq!(hash(&first), hash(&second));
    assert_ne!(hash(&first), hash(&third));
}

#[test]
fn a_type_imported_without_the_word_type_vanishes_too() {
    let folder = folder(&[("a.ts", "import { Event } from 'lagless';\nexport default (e: Event<any>) => e.data;\n")]);
    assert_eq!(load(&folder.path().join("a.ts")).unwrap().modules.len(), 1);
}

#[test]
fn a_missing_file_is_named() {
    let error = load(Path::new("nowhere/none.ts")).unwrap_err().to_string();
    assert!(error.contains("nowhere/none.ts"), "{error}");
    check_error(&[("a.ts", "import './b.ts'\n")], &["import './b.ts' in", "a.ts", "b.ts: No such file"]);
}

#[test]
fn a_syntax_error_tells_line_column_and_text() {
    check_error(&[("a.ts", "const ok = 1;\nexport default ( => 1;\n")], &["a.ts:2:", "export default ( => 1;", "^"]);
    check_error(&[("a.js", "let a = 1;\nlet = = 2;\n")], &["a.js:2:"]);
}

#[test]
fn imports_that_cannot_be_served_are_refused_by_name() {
    check_error(
        &[("total.ts", "import { z } from 'zod'; z();")],
        &["npm packages are not supported yet: import 'zod' in ", "total.ts"],
    );
    check_error(&[("a.ts", "await import('zod');")], &["import 'zod'"]);
    check_error(&[("a.ts", "import 'https://x.example/y.js'")], &["over the network", "https://x.example/y.js"]);
    check_error(&[("a.ts", "import { Event } from 'lagless'; new Event();")], &["`import type`"]);
    check_error(&[("a.ts", "import d from './d.json' with { type: 'json' }; d();"), ("d.json", "{}")], &["./d.json"]);
    check_error(&[("in/a.ts", "import '../b.ts'"), ("b.ts", "")], &["leaves the folder"]);
    check_error(&[("a.txt", "")], &[".ts, .mts, .js or .mjs"]);
}
