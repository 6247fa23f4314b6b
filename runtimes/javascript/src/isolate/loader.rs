//! Serves a function's modules from memory, and nothing else.

use std::borrow::Cow;
use std::sync::Arc;

use deno_runtime::deno_core::error::ModuleLoaderError;
use deno_runtime::deno_core::{
    ModuleLoadOptions, ModuleLoadReferrer, ModuleLoadResponse, ModuleLoader, ModuleResolveResponse, ModuleSource,
    ModuleSourceCode, ModuleSpecifier, ModuleType, ResolutionKind, resolve_import,
};
use lagless_protocol::frames::{Deploy, Module};

/// The modules of one function.
pub struct Modules(pub Arc<Deploy>);

impl Modules {
    fn find(&self, specifier: &str) -> Option<&Module> {
        self.0.modules.iter().find(|module| module.specifier == specifier)
    }
}

impl ModuleLoader for Modules {
    fn resolve(&self, specifier: &str, referrer: &str, _kind: ResolutionKind) -> ModuleResolveResponse {
        let relative = specifier.starts_with("./") || specifier.starts_with("../") || specifier.starts_with('/');
        if !relative && !specifier.contains(':') {
            return Err(ModuleLoaderError::generic(format!(
                "npm packages are not supported yet: import '{specifier}'"
            )));
        }
        resolve_import(specifier, referrer).map_err(ModuleLoaderError::from_err)
    }

    fn load(
        &self,
        specifier: &ModuleSpecifier,
        _referrer: Option<&ModuleLoadReferrer>,
        _options: ModuleLoadOptions,
    ) -> ModuleLoadResponse {
        let found = match self.find(specifier.as_str()) {
            Some(module) => {
                let code = ModuleSourceCode::String(module.code.clone().into());
                Ok(ModuleSource::new(ModuleType::JavaScript, code, specifier, None))
            }
            None => Err(ModuleLoaderError::generic(format!("'{specifier}' is not a module of this function"))),
        };
        ModuleLoadResponse::Sync(found)
    }

    fn get_source_map(&self, file: &str) -> Option<Cow<'_, [u8]>> {
        let map = &self.find(file)?.source_map;
        (!map.is_empty()).then_some(Cow::Borrowed(map))
    }
}
