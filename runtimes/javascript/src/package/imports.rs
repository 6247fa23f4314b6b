//! Finds what a module imports: statically, by re-export, and by `import("literal")`.

use deno_ast::ParsedSource;
use deno_ast::swc::ast::{CallExpr, Callee, ExportAll, Expr, ImportDecl, Lit, NamedExport, ObjectLit, Str};
use deno_ast::swc::ecma_visit::{Visit, VisitWith};

/// One import of a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    pub specifier: String,
    /// Whether it says `with { .. }`, as imports of JSON do.
    pub has_attributes: bool,
}

/// Every import in the order of the text. A dynamic import whose specifier is computed is not among them.
pub fn of(parsed: &ParsedSource) -> Vec<Import> {
    let mut found = Found(Vec::new());
    match &*parsed.program() {
        deno_ast::swc::ast::Program::Module(module) => module.visit_with(&mut found),
        deno_ast::swc::ast::Program::Script(script) => script.visit_with(&mut found),
    }
    found.0
}

struct Found(Vec<Import>);

impl Found {
    fn add(&mut self, source: &Str, attributes: Option<&ObjectLit>) {
        let specifier = source.value.to_string_lossy().into_owned();
        self.0.push(Import { specifier, has_attributes: attributes.is_some() });
    }
}

impl Visit for Found {
    fn visit_import_decl(&mut self, import: &ImportDecl) {
        self.add(&import.src, import.with.as_deref());
    }

    fn visit_named_export(&mut self, export: &NamedExport) {
        if let Some(source) = &export.src {
            self.add(source, export.with.as_deref());
        }
    }

    fn visit_export_all(&mut self, export: &ExportAll) {
        self.add(&export.src, export.with.as_deref());
    }

    fn visit_call_expr(&mut self, call: &CallExpr) {
        if let (Callee::Import(_), Some(first)) = (&call.callee, call.args.first())
            && let Expr::Lit(Lit::Str(source)) = &*first.expr
        {
            let specifier = source.value.to_string_lossy().into_owned();
            self.0.push(Import { specifier, has_attributes: call.args.len() > 1 });
        }
        call.visit_children_with(self);
    }
}
