//! The corpus: what expressions evaluate to, how they fail, what they cost.

use serde_json::{Value as Json, json};

use super::issue::render;
use super::schema::{Decl, of_schema};
use super::types::Type;
use super::{Activation, Authorization, Authorize, CALL_COST_MAX, Decision, Env, Question, Value};

fn env() -> Env {
    Env::default().with("x", Decl::dynamic())
}

/// What the expression makes of a dynamic `x`, as JSON or as the text of its error.
fn run(text: &str, x: &Json) -> Result<Json, String> {
    let program = env().compile(text).map_err(|issues| render(text, &issues))?;
    let activation = Activation::default().with("x", Value::of_json(x));
    let value = program.eval(&activation, CALL_COST_MAX).value.map_err(|e| e.to_string())?;
    match value {
        Value::Optional(None) => Ok(json!("none")),
        Value::Optional(Some(inner)) => Ok(json!({"some": inner.to_json().map_err(|e| e.to_string())?})),
        Value::Type(name) => Ok(json!(format!("type {name}"))),
        value => value.to_json().map_err(|e| e.to_string()),
    }
}

fn check(text: &str, x: Json, expected: Json) {
    assert_eq!(run(text, &x), Ok(expected), "{text}");
}
fn fails(text: &str, x: Json, error: &str) {
    assert_eq!(run(text, &x), Err(error.to_owned()), "{text}");
}
/// A truth about an `x` that is an object of many kinds of fields.
fn holds(text: &str) {
    let x = json!({
        "name": "web", "replicas": 3, "ratio": 0.5, "labels": {"app": "web", "a.b/c": "d"}, "ports": [80, 443],
        "containers": [{"name": "a", "image": "x:1"}, {"name": "b"}], "nothing": null, "empty": {}
    });
    check(text, x, json!(true));
}

#[test]
fn arithmetic_and_comparison() {
    for text in [
        "1 + 2 * 3 == 7 && (1 + 2) * 3 == 9",
        "7 / 2 == 3 && -7 / 2 == -3 && 7 % 4 == 3 && -7 % 4 == -3",
        "1.5 + 1.5 == 3.0 && 2u * 3u == 6u",
        "1 < 2 && 2u <= 2u && 'a' < 'b' && b'a' < b'b' && false < true",
        "1 < 1.5 && 2u > 1 && 1 == dyn(1.0) && dyn(1u) == dyn(1)",
        "dyn(1) != 'a' && dyn([1, 2]) == [1, 2] && {'a': 1} == {'a': 1}",
        "x.replicas == 3 && x.ratio == 0.5 && x.replicas > 2.5",
        "--1 == 1 && !!true && -(-1) == 1 && 0x10 == 16",
        "duration('1h') + duration('30m') == duration('90m')",
        "timestamp('2024-01-01T00:00:00Z') + duration('24h') == timestamp('2024-01-02T00:00:00Z')",
        "timestamp('2024-01-02T00:00:00Z') - timestamp('2024-01-01T00:00:00Z') == duration('24h')",
        "9223372036854775807 == 9223372036854775807 && -9223372036854775808 < 0",
        "true ? 1 == 1 : 1 / 0 == 1",
    ] {
        holds(text);
    }
    fails("1 / 0 == 1", json!(0), "division by zero");
    fails("1 % 0 == 1", json!(0), "modulus by zero");
    fails("9223372036854775807 + 1 > 0", json!(0), "integer overflow");
    fails("0u - 1u > 0u", json!(0), "unsigned integer overflow");
    fails("x < 'a'", json!(1), "no such overload");
    fails("x + 'a' == 'b'", json!(1), "no such overload");
}

#[test]
fn selection_and_presence() {
    for text in [
        "has(x.name) && !has(x.other) && has(x.labels.app)",
        "x.labels['a.b/c'] == 'd' && 'app' in x.labels && !('b' in x.labels)",
        "x.ports[0] == 80 && 443 in x.ports && size(x.ports) == 2 && x.name.size() == 3",
        "x.?name.orValue('none') == 'web' && x.?other.orValue('none') == 'none'",
        "x.?labels.?other.hasValue() == false && x.labels[?'app'].value() == 'web'",
        "x.?other.?deep.or(optional.of('y')).value() == 'y'",
        "x.ports[?5].hasValue() == false && x.?ports[0].orValue(1) == 80",
        "x.nothing == null && type(x.nothing) == null_type && type(x.name) == string",
        "optional.none() == optional.none() && optional.ofNonZeroValue('') == optional.none()",
        "[?optional.of(1), ?optional.none()] == [1] && {?'a': x.?name, ?'b': x.?other} == {'a': 'web'}",
        "x.?name.optMap(n, n + '!').value() == 'web!' && !x.?other.optMap(n, n).hasValue()",
        "x.?name.optFlatMap(n, optional.of(n)).value() == 'web'",
        "[1, 2].first().value() == 1 && [1, 2].last().value() == 2 && !([].first().hasValue())",
        "[optional.of(1), optional.none()].unwrapOpt() == [1]",
    ] {
        holds(text);
    }
    fails("x.a.b == 1", json!({"a": {}}), "no such key: b");
    fails("has(x.a.b)", json!({}), "no such key: a");
    fails("x.a == 1", json!("text"), "no such key: a");
    fails("x[5] == 1", json!([1]), "index out of bounds: 5");
    fails("x['k'] == 1", json!({}), "no such key: k");
    fails("optional.none().value() == 1", json!(0), "optional.none() dereference");
}

#[test]
fn macros() {
    for text in [
        "x.ports.all(p, p > 0) && x.ports.exists(p, p == 80) && x.ports.exists_one(p, p > 100)",
        "x.containers.map(c, c.name) == ['a', 'b'] && x.containers.filter(c, has(c.image)).size() == 1",
        "x.containers.map(c, has(c.image), c.name + '!') == ['a!']",
        "x.labels.all(k, k.size() > 0) && x.labels.exists(k, x.labels[k] == 'd')",
        "x.labels.all(k, v, k != v) && x.ports.exists(i, p, i == 1 && p == 443)",
        "x.labels.transformList(k, v, v) == ['d', 'web'] && x.ports.transformMap(i, p, p > 100, i * 2) == {1: 2}",
        "x.ports.transformMapEntry(i, p, {p: i}) == {80: 0, 443: 1} && [1, 2].existsOne(i, v, v == 2)",
        // an error is absorbed by what decides
        "[0, 1].exists(n, 1 / n == 1) && ![0, 1].all(n, 1 / n == 2)",
        "(1 / 0 == 1 || true) && !(1 / 0 == 1 && false)",
        "[[1, 2], [3]].map(l, l.map(n, n * 2)) == [[2, 4], [6]]",
    ] {
        holds(text);
    }
    fails("[0].all(n, 1 / n == 1)", json!(0), "division by zero");
    fails("x.map(n, n)", json!(1), "got 'int', expected iterable type");
}

#[test]
fn strings() {
    for text in [
        "'hello'.startsWith('he') && 'hello'.endsWith('lo') && 'hello'.contains('ell') && 'hello'.matches('^h.*o$')",
        "'tacocat'.charAt(3) == 'o' && 'abc'.charAt(3) == '' && 'hé'.size() == 2",
        "'hello mellow'.indexOf('ello', 2) == 7 && 'hello'.indexOf('x') == -1 && 'a'.indexOf('') == 0",
        "'hello mellow'.lastIndexOf('ello') == 7 && 'hello mellow'.lastIndexOf('ello', 6) == 1",
        "'TacoCat'.lowerAscii() == 'tacocat' && 'TacoCÆt'.upperAscii() == 'TACOCÆT' && ' a '.trim() == 'a'",
        "'hello hello'.replace('he', 'we') == 'wello wello' && 'hello hello'.replace('he', 'we', 1) == 'wello hello'",
        "'a,b,c'.split(',') == ['a', 'b', 'c'] && 'a,b,c'.split(',', 2) == ['a', 'b,c'] && 'abc'.split('') == ['a', 'b', 'c']",
        "'tacocat'.substring(4) == 'cat' && 'tacocat'.substring(0, 4) == 'taco'",
        "['a', 'b'].join('-') == 'a-b' && ['a', 'b'].join() == 'ab' && strings.quote('a\"b') == '\"a\\\\\"b\"'",
        "'%s is %d and %.2f, %x, %b, %e'.format(['x', 1, 1.5, 255, 5, 1234.5]) == 'x is 1 and 1.50, ff, 101, 1.234500e+03'",
        "'%s %s'.format([[1, 'a'], {'k': 2.0}]) == '[1, \"a\"] {\"k\":2.000000}'",
        "r'\\d' == '\\\\d' && '\\u00e9' == 'é' && \"\"\"a\nb\"\"\" == 'a\\nb' && b'\\xff'.size() == 1",
        "string(1) == '1' && string(1.5) == '1.5' && string(true) == 'true' && string(duration('1h')) == '3600s'",
        "int('12') == 12 && double('1.5') == 1.5 && uint('7') == 7u && bool('true') && bytes('a') == b'a'",
        "timestamp('2024-02-29T10:30:00Z').getFullYear() == 2024 && timestamp('2024-02-29T10:30:00Z').getMonth() == 1",
        "timestamp('2024-02-29T23:30:00Z').getHours('+02:00') == 1 && timestamp('2024-02-29T10:30:00Z').getDayOfWeek() == 4",
        "duration('90m').getHours() == 1 && duration('90m').getMinutes() == 90",
    ] {
        holds(text);
    }
    fails("'tacocat'.substring(8)", json!(0), "index out of range: 8");
    fails("'tacocat'.substring(3, 2)", json!(0), "invalid substring range. start: 3, end: 2");
    fails("int(x)", json!("a"), "type conversion error from 'string' to 'int'");
    fails("x.startsWith('a')", json!(1), "no such overload: startsWith(int, string)");
}

#[test]
fn kubernetes_libraries() {
    for text in [
        "[1, 2, 2].isSorted() && [1, 2].sum() == 3 && [3, 1].min() == 1 && ['a', 'b'].max() == 'b' && [1, 2, 1].lastIndexOf(1) == 2",
        "[].sum() == 0 && [duration('1s'), duration('2s')].sum() == duration('3s')",
        "'abc 123'.find('[0-9]+') == '123' && '123 abc 456'.findAll('[0-9]+') == ['123', '456']",
        "isURL('https://a.b:80/p?q=1') && !isURL('../x') && url('https://a.b:80/p?q=1').getHostname() == 'a.b'",
        "url('https://a.b:80/p?q=1&q=2').getQuery() == {'q': ['1', '2']} && url('https://a.b:80/p').getPort() == '80'",
        "quantity('1Gi').isGreaterThan(quantity('1G')) && quantity('500m').add(quantity('500m')).asInteger() == 1",
        "isQuantity('1.5Gi') && !isQuantity('1Kb') && quantity('50k').sub(1).compareTo(quantity('49999')) == 0",
        "quantity('1.5').asApproximateFloat() == 1.5 && !quantity('1.5').isInteger() && sign(quantity('-1')) == -1",
        "ip('192.168.0.1').family() == 4 && isIP('::1') && !isIP('::ffff:1.2.3.4') && ip('::1').isLoopback()",
        "cidr('10.0.0.0/8').containsIP('10.1.2.3') && cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && cidr('10.1.0.0/8').masked() == cidr('10.0.0.0/8')",
        "ip.isCanonical('::1') && !ip.isCanonical('::0:1') && cidr('10.0.0.0/8').prefixLength() == 8 && string(cidr('10.0.0.0/8').ip()) == '10.0.0.0'",
        "format.dns1123Label().validate('a-b') == optional.none() && format.dns1123Label().validate('A').hasValue()",
        "format.named('uuid').value().validate('not').value() == ['does not match the UUID format'] && !format.named('x').hasValue()",
        "semver('1.2.3').isLessThan(semver('1.10.0')) && semver('1.0.0-alpha').compareTo(semver('1.0.0')) == -1 && isSemver('1.2.3') && !isSemver('v1.0')",
        "semver('v1.2', true).minor() == 2 && isSemver('v1.0', true)",
        "sets.contains([1, 2], [2]) && sets.equivalent([1, 1], [1]) && sets.intersects([1], [1, 2])",
        "[3, 1, 2].sort() == [1, 2, 3] && ['bb', 'a'].sortBy(s, s.size()) == ['a', 'bb'] && [1, 2, 3].slice(1, 3) == [2, 3]",
        "[[1], [2, 3]].flatten() == [1, 2, 3] && [1, 1, 2].distinct() == [1, 2] && [1, 2].reverse() == [2, 1] && lists.range(3) == [0, 1, 2]",
    ] {
        holds(text);
    }
    fails(
        "quantity(x).isInteger()",
        json!("1Kb"),
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
    );
    fails("[].min() == dyn(1)", json!(0), "min called on empty list");
    fails("'a'.find('(')", json!(0), "Illegal regex: error parsing regexp: unclosed group: `(`");
}

/// Issues of a text over the typed variables below.
fn issues(text: &str) -> String {
    let schema = json!({"type": "object", "properties": {
        "replicas": {"type": "integer"}, "name": {"type": "string"}, "namespace": {"type": "string"},
        "ports": {"type": "array", "items": {"type": "object", "properties": {"port": {"type": "integer"}}}},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "any": {"x-kubernetes-int-or-string": true}
    }});
    let env = Env::default().with("self", of_schema(&schema, false, "selfType", &|_| None).unwrap());
    match env.compile(text) {
        Ok(_) => String::new(),
        Err(issues) => render(text, &issues),
    }
}

#[test]
fn compile_errors() {
    for (text, expected) in [
        ("self.replicas > 1 && self.__namespace__ == 'a' && self.ports.all(p, p.port > 0) && self.any == 1", ""),
        ("foo > 1", "ERROR: <input>:1:1: undeclared reference to 'foo' (in container '')\n | foo > 1\n | ^"),
        (
            "self.replicas == 'a'",
            "ERROR: <input>:1:15: found no matching overload for '_==_' applied to '(int, string)'\n | self.replicas == 'a'\n | ..............^",
        ),
        ("self.other", "ERROR: <input>:1:5: undefined field 'other'\n | self.other\n | ....^"),
        (
            "self.replicas.x",
            "ERROR: <input>:1:14: type 'int' does not support field selection\n | self.replicas.x\n | .............^",
        ),
        (
            "self.name.size(1) == 1",
            "ERROR: <input>:1:15: found no matching overload for 'size' applied to 'string.(int)'\n | self.name.size(1) == 1\n | ..............^",
        ),
        (
            "self.ports.all(p, p.prot > 0)",
            "ERROR: <input>:1:20: undefined field 'prot'\n | self.ports.all(p, p.prot > 0)\n | ...................^",
        ),
        (
            "self.replicas.all(p, true)",
            "ERROR: <input>:1:5: expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)\n | self.replicas.all(p, true)\n | ....^",
        ),
        ("[1, 'a']", "ERROR: <input>:1:5: expected type 'int' but found 'string'\n | [1, 'a']\n | ....^"),
        (
            "1 +",
            "ERROR: <input>:1:4: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}\n | 1 +\n | ...^",
        ),
        ("namespace == 'a'", "ERROR: <input>:1:1: reserved identifier: namespace\n | namespace == 'a'\n | ^"),
        (
            "self.name.all(1, true)",
            "ERROR: <input>:1:15: argument must be a simple name\n | self.name.all(1, true)\n | ..............^",
        ),
        ("has(self)", "ERROR: <input>:1:5: invalid argument to has() macro\n | has(self)\n | ....^"),
        (
            "duration('x') == duration('1s')",
            "ERROR: <input>:1:10: invalid duration argument\n | duration('x') == duration('1s')\n | .........^",
        ),
        (
            "self.name.matches('(')",
            "ERROR: <input>:1:19: invalid matches argument\n | self.name.matches('(')\n | ..................^",
        ),
        (
            "'%d'.format(['a'])",
            "ERROR: <input>:1:14: error during formatting: decimal clause can only be used on integers, was given string\n | '%d'.format(['a'])\n | .............^",
        ),
        (
            "cel.bind(a, 1, a)",
            "ERROR: <input>:1:1: undeclared reference to 'cel' (in container '')\n | cel.bind(a, 1, a)\n | ^\nERROR: <input>:1:10: undeclared reference to 'a' (in container '')\n | cel.bind(a, 1, a)\n | .........^\nERROR: <input>:1:16: undeclared reference to 'a' (in container '')\n | cel.bind(a, 1, a)\n | ...............^",
        ),
    ] {
        let found = issues(text);
        if text.starts_with("cel.bind") {
            // the function itself is not declared either
            assert!(found.contains("undeclared reference to 'a'") && found.contains("undeclared reference to 'bind'"));
        } else {
            assert_eq!(found, expected, "{text}");
        }
    }
}

#[test]
fn nothing_is_too_deep() {
    let nested = format!("{}1{}", "(".repeat(300), ")".repeat(300));
    assert!(env().compile(&nested).is_err_and(|i| i[0].message == "expression recursion limit exceeded: 250"));
    let within = format!("{}1{} == 1", "(".repeat(200), ")".repeat(200));
    assert_eq!(run(&within, &json!(0)), Ok(json!(true)));
    let sum = vec!["1"; 300].join(" + ");
    assert!(env().compile(&sum).is_err_and(|i| i[0].message == "max recursion depth exceeded"));
    let sum = format!("{} == 240", vec!["1"; 240].join(" + "));
    assert_eq!(run(&sum, &json!(0)), Ok(json!(true)));
    // balanced, so many more of these are fine
    assert_eq!(run(&vec!["true"; 2000].join(" && "), &json!(0)), Ok(json!(true)));
}

/// Each of these macros copies its target. Twelve of them fit, so that a failure of this test costs no more than a second.
#[test]
fn copies_are_bounded() {
    let chain = |n: usize| format!("optional.of(1){}.hasValue()", ".optMap(a, a)".repeat(n));
    assert_eq!(run(&chain(5), &json!(0)), Ok(json!(true)));
    let issues = env().compile(&chain(16)).unwrap_err();
    assert_eq!(issues[0].message, "expression too large");
    let nested = format!("{}1{}", "optional.of(".repeat(100), ")".repeat(100));
    let issues = env().compile(&format!("{nested}{}", ".optFlatMap(a, a)".repeat(12))).unwrap_err();
    assert_eq!(issues[0].message, "expression too large");
}

/// What a call costs is paid before it runs, so that one which fails or is never begun is no cheaper. Each of these would look at
/// a hundred million pairs at most.
#[test]
fn failing_calls_cost_as_much() {
    let outcome = |text: &str, x: &Json| {
        let program = env().compile(text).unwrap();
        let activation = Activation::default().with("x", Value::of_json(x));
        let outcome = program.eval(&activation, CALL_COST_MAX);
        (outcome.value.is_ok_and(|v| matches!(v, Value::Bool(true))), outcome.cost)
    };
    let text = json!("a".repeat(1000));
    assert_eq!(outcome("quantity(x) == quantity('1')", &text), (false, 1 + 100));
    assert!(outcome("ip(x) == ip('::1') || true", &text).0);
    let (value, cost) = outcome("'a'.matches('(' + x)", &json!("b"));
    assert!(!value && cost > 1_000, "{cost}");
    let (value, first) = outcome("'a'.matches('never' + x)", &json!("seen"));
    let again = outcome("'a'.matches('never' + x)", &json!("seen"));
    assert!(!value && first == again.1 + 1_000, "{first} {again:?}");
    let out = Err("operation cancelled: actual cost limit exceeded".to_owned());
    let long = json!({"a": (0..10_000).collect::<Vec<_>>(), "b": (0..10_000).rev().collect::<Vec<_>>()});
    assert_eq!(run("sets.equivalent(x.a, x.b)", &long), out);
}

/// Declared sets and maps are compared by an index, as they are pair by pair.
#[test]
fn large_sets_and_maps() {
    let schema = json!({"type": "object", "properties": {
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "integer"}},
        "lists": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "array", "items": {"type": "integer"}}},
        "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {
            "type": "object", "properties": {"k": {"type": "integer"}, "s": {"type": "array",
                "x-kubernetes-list-type": "set", "items": {"type": "integer"}}}}}
    }});
    let decl = of_schema(&schema, false, "selfType", &|_| None).unwrap();
    let env = Env::default().with("self", decl.clone()).with("old", decl.clone()).with("free", Decl::dynamic());
    // Like what an expression makes, it is not declared: its lists have an order.
    let free = json!({"same": [{"k": 2, "s": [4, 1]}, {"k": 1, "s": [3, 1]}], "other": [{"k": 2, "s": [1]}, {"k": 1, "s": [3]}],
        "more": [{"k": 2, "s": []}, {"k": 3, "s": []}]});
    let object = |keys: &mut dyn Iterator<Item = i64>| {
        let keys: Vec<i64> = keys.collect();
        json!({"set": keys, "lists": keys.iter().map(|k| json!([k, 1])).collect::<Vec<_>>(),
            "map": keys.iter().map(|k| json!({"k": k, "s": [1, k + 2]})).collect::<Vec<_>>()})
    };
    let holds = |text: &str, new: &Json, old: &Json| {
        let program = env.compile(text).unwrap();
        let typed = |json| Value::typed(json, &decl).unwrap();
        let activation = Activation::default().with("self", typed(new)).with("old", typed(old));
        let activation = activation.with("free", Value::of_json(&free));
        matches!(program.eval(&activation, CALL_COST_MAX).value, Ok(Value::Bool(true)))
    };
    let many = 5_000;
    let (up, down) = (object(&mut (0..many)), object(&mut (0..many).rev()));
    for name in ["set", "lists", "map"] {
        assert!(holds(&format!("self.{name} == old.{name}"), &up, &down), "{name}");
        assert!(holds(&format!("size(self.{name} + old.{name}) == {many}"), &up, &down), "{name}");
    }
    let few = object(&mut [1, 2].into_iter());
    for text in [
        "self.set == [2, 1] && self.set != [1, 3] && self.set + [2, 3] == [1, 2, 3]",
        "self.lists == [[2, 1], [1, 1]] && self.lists != [[1, 2], [1, 1]]",
        "self.map == free.same && self.map != free.other",
        "(self.map + free.more).map(i, i.s.size()) == [2, 0, 0]",
        "self.set == [2.0, 1.0].map(i, dyn(i))",
    ] {
        assert!(holds(text, &few, &few), "{text}");
    }
}

#[test]
fn nothing_grows_without_bound() {
    let out = Err("operation cancelled: actual cost limit exceeded".to_owned());
    let long = json!(vec![1; 100_000]);
    let twenty = vec!["x"; 20].join(" + ");
    assert_eq!(run(&format!("size({twenty}) > 0"), &long), out);
    let text = json!("a".repeat(100_000));
    assert_eq!(run("x.replace('', x).size() > 0", &text), out);
    assert_eq!(run("lists.range(9000000).size() > 0", &text), out);
    assert_eq!(run("[x, x, x].join(x).size() > 0", &text), Ok(json!(true)));
}

#[test]
fn runtime_costs() {
    let cost = |text: &str, x: &Json| {
        let program = env().compile(text).unwrap();
        program.eval(&Activation::default().with("x", Value::of_json(x)), CALL_COST_MAX).cost
    };
    for (text, x, expected) in [
        ("true", json!(0), 0),
        ("x", json!(0), 1),
        ("x.a.b", json!({"a": {"b": 1}}), 3),
        ("x[0]", json!([1]), 2),
        ("has(x.a)", json!({"a": 1}), 1),
        ("1 == 1", json!(0), 1),
        ("x == 1", json!(1), 2),
        ("'abcdefghijk' == 'abcdefghijk'", json!(0), 2),
        ("[1, 2, 3]", json!(0), 0),
        ("[x]", json!(0), 11),
        ("{'a': x}", json!(0), 31),
        ("x in [1, 2, 3]", json!(1), 1),
        ("!true", json!(0), 1),
        ("true && false", json!(0), 0),
        ("x.startsWith('abcdefghijk')", json!("abcdefghijk"), 3),
        ("'abc'.matches('abcd')", json!(0), 1),
        // for each: condition 2 (variable, test), step 1 (accumulator) and the predicate's 2; the result 1
        ("[1, 2].all(i, i > 0)", json!(0), 11),
    ] {
        assert_eq!(cost(text, &x), expected, "{text}");
    }
    let big = json!(vec![1; 100_000]);
    let text = "x.all(a, x.all(b, a == b))";
    assert_eq!(run(text, &big), Err("operation cancelled: actual cost limit exceeded".into()));
}

#[test]
fn static_estimates() {
    let schema = json!({"type": "object", "properties": {
        "list": {"type": "array", "maxItems": 10, "items": {"type": "string", "maxLength": 5}},
        "unbounded": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
        "text": {"type": "string", "maxLength": 100},
        "number": {"type": "integer"}
    }});
    let env = Env::default().with("self", of_schema(&schema, false, "selfType", &|_| None).unwrap());
    for (text, max) in [
        ("true", 0),
        ("self.number > 1", 3),
        ("self.number == 1", 2),
        // 400 bytes at most
        ("self.text.startsWith(self.text)", 44),
        ("self.text == 'abc'", 3),
        ("self.list.size() > 1", 4),
        // ten times condition 2 and step (accumulator 1, variable 1, size 1, comparison 1); range 2, result 1
        ("self.list.all(s, s.size() > 0)", 63),
    ] {
        assert_eq!(env.compile(text).unwrap().estimate().max, max, "{text}");
    }
    let expensive = env.compile("self.unbounded.all(a, a.all(b, b == 'x'))").unwrap();
    assert!(expensive.estimate().max > super::OBJECT_COST_MAX);
}

/// The numbers that upstream promises. Source: apiextensions-apiserver `schema/cel/compilation_test.go` `TestCostEstimation`.
#[test]
fn estimates_are_upstreams() {
    let of = |schema: &Json, rule: &str| {
        let env = Env::default().with("self", of_schema(schema, false, "selfType", &|_| None).unwrap());
        env.compile(rule).unwrap_or_else(|issues| panic!("{}", render(rule, &issues))).estimate().max
    };
    let item = |of: &str| match of {
        "duration" | "date" | "date-time" | "byte" => json!({"type": "string", "format": of}),
        "int-or-string" => json!({"x-kubernetes-int-or-string": true}),
        of => json!({"type": of}),
    };
    for (of_item, rule, free, most, bound) in [
        ("number", "self.all(x, true)", 4_718_591, 10, 32),
        ("string", "self.all(x, true)", 3_145_727, 20, 62),
        ("boolean", "self.all(x, true)", 1_887_437, 5, 17),
        ("int-or-string", "self.all(x, true)", 4_718_591, 10, 32),
        ("duration", "self.all(x, true)", 2_359_295, 5, 17),
        ("date", "self.all(x, true)", 725_936, 15, 47),
        ("date-time", "self.all(x, true)", 428_963, 25, 77),
        ("number", "self[1] == 0.0", 2, 5000, 2),
        ("string", "self[1] == self[1]", 314_577, 8, 314_577),
        ("number", "self.all(x, x == 0.0)", 6_291_454, 3 * 1024 * 2048, 25_165_826),
        ("int-or-string", "self[0] == 5", 3, 10, 3),
        ("date", "self[2].getDayOfMonth() == 13", 4, 42, 4),
    ] {
        assert_eq!(of(&json!({"type": "array", "items": item(of_item)}), rule), free, "{of_item}: {rule}");
        let limited = json!({"type": "array", "items": item(of_item), "maxItems": most});
        assert_eq!(of(&limited, rule), bound, "{of_item}, limited: {rule}");
    }
    let numbers = json!({"type": "array", "items": item("number"), "maxItems": 10});
    assert_eq!(of(&numbers, "self.all(x, self.all(y, true))"), 352);
    assert_eq!(of(&numbers, "self.all(x, self.all(y, self.all(z, true)))"), 3552);
    for (of_value, rule, free, most, bound) in [
        ("number", "self.all(x, true)", 1_348_169, 10, 32),
        ("string", "self.all(x, true)", 1_179_647, 3, 11),
        ("boolean", "self.all(x, true)", 943_718, 100, 302),
        ("duration", "self.all(x, true)", 1_048_577, 5, 17),
        ("date", "self.all(x, true)", 524_288, 10, 32),
        ("number", "self['x'] == 0.0", 2, 0, 2),
    ] {
        assert_eq!(of(&json!({"type": "object", "additionalProperties": item(of_value)}), rule), free, "{rule}");
        let limited = json!({"type": "object", "additionalProperties": item(of_value), "maxProperties": most});
        assert_eq!(of(&limited, rule), bound, "{of_value}, limited: {rule}");
    }
    for (rule, free, most, bound) in [
        ("self.contains('test')", 314_574, 10, 5),
        ("self.startsWith('test')", 2, 15, 2),
        ("size(self + \"hello\") > size(\"hello\")", 314_578, 4, 7),
        ("self.matches(\"x\")", 314_574, 50, 22),
        ("\"\".matches(\"(((((((((())))))))))[0-9]\")", 7, 10, 7),
        ("self.matches(\"\")", 1, 100, 1),
        ("self == \"x\"", 2, 0, 1),
    ] {
        assert_eq!(of(&json!({"type": "string"}), rule), free, "{rule}");
        assert_eq!(of(&json!({"type": "string", "maxLength": most}), rule), bound, "limited: {rule}");
    }
}

#[test]
fn typed_values() {
    let schema = json!({"type": "object", "properties": {
        "at": {"type": "string", "format": "date-time"}, "wait": {"type": "string", "format": "duration"},
        "data": {"type": "string", "format": "byte"}, "ratio": {"type": "number"}, "namespace": {"type": "string"},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items":
            {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}}}}
    }});
    let decl = of_schema(&schema, false, "selfType", &|_| None).unwrap();
    let env = Env::default().with("self", decl.clone());
    let object = json!({
        "at": "2024-01-01T00:00:00Z", "wait": "1h", "data": "YQ==", "ratio": 1, "namespace": "n",
        "set": ["a", "b"], "map": [{"k": "a", "v": 1}], "unknown": 1
    });
    for text in [
        "self.at.getFullYear() == 2024 && self.wait == duration('60m') && self.data == b'a'",
        "self.ratio == 1.0 && type(self.ratio) == double && self.__namespace__ == 'n'",
        "self.set == ['b', 'a'] && self.set + ['b', 'c'] == ['a', 'b', 'c']",
        "(self.map + self.map).size() == 1",
        "has(self.at)",
    ] {
        let program = env.compile(text).unwrap_or_else(|issues| panic!("{}", render(text, &issues)));
        let activation = Activation::default().with("self", Value::typed(&object, &decl).unwrap());
        let value = program.eval(&activation, CALL_COST_MAX).value;
        assert!(matches!(value, Ok(Value::Bool(true))), "{text}: {value:?}");
    }
    assert!(env.compile("self.unknown == 1").is_err());
}

struct Only(&'static str);
impl Authorize for Only {
    fn decide(&self, question: &Question) -> Decision {
        let asked = format!("{} {}/{}", question.verb, question.group, question.resource);
        Decision { allowed: asked == self.0, reason: asked, error: None }
    }
}

#[test]
fn authorizer() {
    let decl = Decl::opaque(Type::object("kubernetes.authorization.Authorizer"));
    let env = Env::default().with("authorizer", decl);
    let only = Only("create apps/deployments");
    let text = "authorizer.group('apps').resource('deployments').namespace('n').check('create').allowed() && \
                !authorizer.serviceAccount('n', 'default').group('').resource('pods').check('get').allowed()";
    let program = env.compile(text).unwrap_or_else(|issues| panic!("{}", render(text, &issues)));
    let outcome =
        program.eval(&Activation::default().with("authorizer", Authorization::authorizer(&only)), CALL_COST_MAX);
    assert!(matches!(outcome.value, Ok(Value::Bool(true))), "{outcome:?}");
    assert!(outcome.cost > 700_000);
}

proptest::proptest! {
    #[test]
    fn any_text_is_answered(text in "[a-z0-9.()\\[\\]{}'\"+*/<>=!&|?:,\\- ]{0,40}") {
        let _ = run(&text, &json!({"a": [1]}));
    }

    /// An expression that costs more than it may fails; no other outcome is more expensive than the limit.
    #[test]
    fn expressions_of_all_parts_end_in_time(text in expressions()) {
        const LIMIT: u64 = 500;
        let Ok(program) = env().compile(&text) else { return Ok(()) };
        let x = json!({"a": [1, "b", null], "b": {"a": 1.5}});
        let outcome = program.eval(&Activation::default().with("x", Value::of_json(&x)), LIMIT);
        proptest::prop_assert!(outcome.value.is_err() || outcome.cost <= LIMIT, "{}: {:?}", text, outcome);
        let estimate = program.estimate();
        proptest::prop_assert!(estimate.min <= estimate.max, "{}", text);
    }
}

fn expressions() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::*;
    let leaf = "x|x\\.a|x\\.b|x\\.none|y|[0-9]u?|-1|1\\.5|9223372036854775807|'[ab]{0,3}'|b'a'|true|null|\\[\\]|\\{\\}|'a'\\.\\*|duration\\('1h'\\)|quantity\\('1Mi'\\)|url\\('http://a/b'\\)|timestamp\\('2026-01-01T00:00:00Z'\\)|int|optional\\.none\\(\\)";
    leaf.prop_recursive(5, 40, 3, |inner| {
        let operator = "\\+|-|\\*|/|%|==|!=|<|<=|>|>=|&&|\\|\\||in";
        let method = "size|startsWith|matches|contains|split|replace|join|lowerAscii|isSorted|sum|min|indexOf|getHours|orValue|add|find|findAll|substring";
        let function = "size|string|int|uint|double|bytes|type|dyn|bool|duration|quantity|isQuantity|url|optional.of|semver|ip|cidr";
        let fold = "all|exists|exists_one|map|filter";
        prop_oneof![
            (inner.clone(), operator, inner.clone()).prop_map(|(a, op, b)| format!("({a} {op} {b})")),
            (inner.clone(), method, inner.clone()).prop_map(|(a, m, b)| format!("{a}.{m}({b})")),
            (inner.clone(), method).prop_map(|(a, m)| format!("{a}.{m}()")),
            (function, inner.clone()).prop_map(|(f, a)| format!("{f}({a})")),
            (inner.clone(), fold, inner.clone()).prop_map(|(a, f, b)| format!("{a}.{f}(y, {b})")),
            (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}, {b}]")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{{{a}: {b}}}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}[{b}]")),
            inner.prop_map(|a| format!("has({a}.b)")),
        ]
    })
}
