//! Plugins of CloudQuery's own SDKs, as `registry: local`: what CloudQuery itself cannot run so.

use highwater_cloudquery::host::{Plugin, PluginSpec, Registry, Role};
use highwater_cloudquery::proto::plugin::get_name;
use highwater_testkit::sdk;

async fn runs(file: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = sdk::executable(folder.path(), file).display().to_string();
    let spec = PluginSpec::new("memdb", Role::Source, Registry::Local, path);
    for _ in 0..2 {
        let plugin = Plugin::start(&spec).await.unwrap();
        let name = plugin.client().get_name(get_name::Request {}).await.unwrap();
        assert_eq!(name.into_inner().name, "memdb");
        assert_eq!(plugin.logs().errors, 0);
        plugin.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_plugin_of_the_python_sdk_runs() {
    if sdk::or_skip("a_plugin_of_the_python_sdk_runs", sdk::python()).is_some() {
        runs("memdb.py").await;
    }
}

#[tokio::test]
async fn a_plugin_of_the_javascript_sdk_runs() {
    if sdk::or_skip("a_plugin_of_the_javascript_sdk_runs", sdk::node()).is_some() {
        runs("memdb.mjs").await;
    }
}
