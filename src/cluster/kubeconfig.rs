//! The file with which kubectl and every other client finds and enters the cluster.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::pki::Leaf;

/// A kubeconfig (YAML) with one cluster, one user by client certificate, and one context, all called `name`.
/// `server` is a URL such as `https://127.0.0.1:6443`.
///
/// Source: client-go `tools/clientcmd/api/v1/types.go`.
pub fn render(name: &str, server: &str, ca_pem: &str, leaf: &Leaf) -> String {
    let quoted = |s: &str| format!("\"{}\"", s.replace('\\', "\\\\").replace('"', "\\\""));
    let (name, server) = (quoted(name), quoted(server));
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: {name}\n  cluster:\n    server: {server}\n    certificate-authority-data: {ca}\n\
         users:\n\
         - name: {name}\n  user:\n    client-certificate-data: {cert}\n    client-key-data: {key}\n\
         contexts:\n\
         - name: {name}\n  context:\n    cluster: {name}\n    user: {name}\n\
         current-context: {name}\n",
        ca = STANDARD.encode(ca_pem),
        cert = STANDARD.encode(&leaf.chain_pem),
        key = STANDARD.encode(&leaf.key_pem),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_and_data_encoded() {
        let leaf = Leaf { chain_pem: "chain".into(), key_pem: "key".into() };
        let text = render("a\"b", "https://h:1", "ca", &leaf);
        assert!(text.contains("current-context: \"a\\\"b\"\n"), "{text}");
        assert!(text.contains("client-key-data: a2V5\n"), "{text}");
        assert!(text.contains("certificate-authority-data: Y2E=\n"), "{text}");
    }
}
