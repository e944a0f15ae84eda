//! What expressions of admission may name: `object`, `oldObject`, `request`, `params`, `namespaceObject`, `authorizer`,
//! `variables`; and what they must evaluate to.
//!
//! Source: apiserver `pkg/admission/plugin/cel/compile.go`.

use std::sync::OnceLock;

use cel::schema::Decl;
use cel::types::Type;
use cel::{Env, Program, issue};

/// Which variables there are besides those that are always there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    pub params: bool,
    pub authorizer: bool,
    /// The types that mutations make.
    pub patches: bool,
}

/// What an expression has to evaluate to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Returns {
    Bool,
    Text,
    TextOrNull,
    Any,
    /// A list of `JSONPatch`.
    Patches,
    /// An `Object`.
    Configuration,
}

/// The environment with those variables. Made once for each combination.
pub fn environment(options: Options) -> Env {
    static MADE: [OnceLock<Env>; 8] = [const { OnceLock::new() }; 8];
    let index = usize::from(options.params) | usize::from(options.authorizer) << 1 | usize::from(options.patches) << 2;
    let make = || {
        let mut env = Env::default()
            .with("object", Decl::dynamic())
            .with("oldObject", Decl::dynamic())
            .with("namespaceObject", namespace())
            .with("request", request());
        if options.params {
            env = env.with("params", Decl::dynamic());
        }
        if options.authorizer {
            let authorization = |name: &str| Decl::opaque(Type::object(&format!("kubernetes.authorization.{name}")));
            env = env
                .with("authorizer", authorization("Authorizer"))
                .with("authorizer.requestResource", authorization("ResourceCheck"));
        }
        if options.patches { env.for_mutations() } else { env }
    };
    MADE[index].get_or_init(make).clone()
}

/// `variables` with those names and types; later ones may use earlier ones.
pub fn variables<'t>(env: Env, types: impl IntoIterator<Item = (&'t str, Type)>) -> Env {
    let fields = types.into_iter().map(|(name, t)| (name, of_type(t)));
    env.with("variables", Decl::object("kubernetes.variables", fields))
}
fn of_type(t: Type) -> Decl {
    if t == Type::Dyn { Decl::dynamic() } else { Decl::opaque(t) }
}

/// Compiles an expression that has to evaluate to that.
///
/// # Errors
/// What upstream says of it, as it stands in field errors and in refusals.
pub fn compile(env: &Env, text: &str, returns: Returns) -> Result<Program, String> {
    let program =
        env.compile(text).map_err(|issues| format!("compilation failed: {}", issue::render(text, &issues)))?;
    let given = program.result_type();
    let (fits, wanted) = match returns {
        Returns::Any => (true, ""),
        Returns::Bool => (*given == Type::Bool, "bool"),
        Returns::Text => (*given == Type::String, "string"),
        Returns::TextOrNull => (matches!(given, Type::String | Type::Null), "one of [string null_type]"),
        Returns::Patches => (*given == Type::list(Type::object("JSONPatch")), "list(JSONPatch)"),
        Returns::Configuration => (*given == Type::object("Object"), "Object"),
    };
    if fits { Ok(program) } else { Err(format!("must evaluate to {wanted} but got {}", given.plain())) }
}

fn text() -> Decl {
    Decl::scalar(Type::String)
}
fn texts() -> Decl {
    Decl::list(text())
}
fn request() -> Decl {
    let kind =
        || Decl::object("kubernetes.GroupVersionKind", [("group", text()), ("version", text()), ("kind", text())]);
    let resource = || {
        let fields = [("group", text()), ("version", text()), ("resource", text())];
        Decl::object("kubernetes.GroupVersionResource", fields)
    };
    let user = Decl::object(
        "kubernetes.UserInfo",
        [("username", text()), ("uid", text()), ("groups", texts()), ("extra", Decl::map(texts()))],
    );
    Decl::object(
        "kubernetes.AdmissionRequest",
        [
            ("kind", kind()),
            ("resource", resource()),
            ("subResource", text()),
            ("requestKind", kind()),
            ("requestResource", resource()),
            ("requestSubResource", text()),
            ("name", text()),
            ("namespace", text()),
            ("operation", text()),
            ("userInfo", user),
            ("dryRun", Decl::scalar(Type::Bool)),
            ("options", Decl::dynamic()),
        ],
    )
}
/// A namespace without its owners and managers.
pub fn namespace() -> Decl {
    let time = || Decl::scalar(Type::Timestamp);
    let condition = Decl::object(
        "kubernetes.NamespaceCondition",
        [("status", text()), ("type", text()), ("lastTransitionTime", time()), ("message", text()), ("reason", text())],
    );
    let metadata = Decl::object(
        "kubernetes.NamespaceMetadata",
        [
            ("name", text()),
            ("generateName", text()),
            ("namespace", text()),
            ("labels", Decl::map(text())),
            ("annotations", Decl::map(text())),
            ("UID", text()),
            ("creationTimestamp", time()),
            ("deletionGracePeriodSeconds", Decl::scalar(Type::Int)),
            ("deletionTimestamp", time()),
            ("generation", Decl::scalar(Type::Int)),
            ("resourceVersion", text()),
            ("finalizers", texts()),
        ],
    );
    let status = Decl::object("kubernetes.NamespaceStatus", [("conditions", Decl::list(condition)), ("phase", text())]);
    let spec = Decl::object("kubernetes.NamespaceSpec", [("finalizers", texts())]);
    Decl::object("kubernetes.Namespace", [("metadata", metadata), ("spec", spec), ("status", status)])
}
