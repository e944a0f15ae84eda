"""The Python client against a cluster: verbs, watches that are resumed, streams, the dynamic client.

Stops at the first answer that is not what a cluster gives, with a non-zero exit code."""

import base64
import json
import threading
import time

from kubernetes import client, config, dynamic, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import portforward, stream
from kubernetes.stream.ws_client import ERROR_CHANNEL

NAMESPACE = "python"
PATIENCE_SECONDS = 60


def refused(code, reason, call, *args, **kwargs):
    try:
        answer = call(*args, **kwargs)
    except ApiException as error:
        body = json.loads(error.body)
        assert (error.status, body["reason"]) == (code, reason), error
        assert body["kind"] == "Status" and body["code"] == code, body
        return body
    raise AssertionError(f"expected {code} {reason}, got {answer}")


def config_map(name, data=None):
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name, labels={"app": "python"}), data=data or {})


def verbs(core):
    made = core.create_namespaced_config_map(NAMESPACE, config_map("one", {"k": "v"}))
    assert made.metadata.uid and made.data == {"k": "v"}, made
    read = core.read_namespaced_config_map("one", NAMESPACE)
    assert read.to_dict() == made.to_dict(), read
    # The media type is chosen by the body: a list is a JSON patch, a mapping a strategic merge patch.
    core.patch_namespaced_config_map("one", NAMESPACE, {"data": {"merge": "1"}})
    core.patch_namespaced_config_map("one", NAMESPACE, [{"op": "add", "path": "/data/json", "value": "1"}])
    read.data = {"stale": "1"}
    refused(409, "Conflict", core.replace_namespaced_config_map, "one", NAMESPACE, read)
    fresh = core.read_namespaced_config_map("one", NAMESPACE)
    assert fresh.data == {"k": "v", "merge": "1", "json": "1"}, fresh.data
    fresh.data = {"k": "w"}
    assert core.replace_namespaced_config_map("one", NAMESPACE, fresh).data == {"k": "w"}
    for i in range(5):
        core.create_namespaced_config_map(NAMESPACE, config_map(f"page-{i}"))
    names, token = [], None
    while token != "":
        page = core.list_namespaced_config_map(NAMESPACE, limit=2, label_selector="app=python", _continue=token)
        names += [item.metadata.name for item in page.items]
        token = page.metadata._continue or ""
    assert names == ["one"] + [f"page-{i}" for i in range(5)], names
    secret = client.V1Secret(metadata=client.V1ObjectMeta(name="s"), string_data={"password": "x"})
    assert core.create_namespaced_secret(NAMESPACE, secret).data["password"] == base64.b64encode(b"x").decode()
    refused(404, "NotFound", core.read_namespaced_config_map, "none", NAMESPACE)
    refused(409, "AlreadyExists", core.create_namespaced_config_map, NAMESPACE, config_map("one"))
    invalid = refused(422, "Invalid", core.create_namespaced_config_map, NAMESPACE, config_map("Not_A_Name"))
    assert invalid["details"]["causes"][0]["field"] == "metadata.name", invalid
    refused(400, "BadRequest", core.list_namespaced_config_map, NAMESPACE, label_selector="a in b")
    core.delete_collection_namespaced_config_map(NAMESPACE, label_selector="app=python")
    assert not core.list_namespaced_config_map(NAMESPACE, label_selector="app=python").items


def watches(core):
    """A watch ends; the next goes on where it ended. One that is too old is told so and lists again."""
    listed = core.list_namespaced_config_map(NAMESPACE)
    watching = watch.Watch()
    heard = []

    def follow(version, until):
        arguments = {"resource_version": version, "timeout_seconds": PATIENCE_SECONDS, "label_selector": "app=python"}
        for event in watching.stream(core.list_namespaced_config_map, NAMESPACE, **arguments):
            heard.append((event["type"], event["object"].metadata.name))
            if heard[-1] == until:
                watching.stop()

    def change():
        core.create_namespaced_config_map(NAMESPACE, config_map("w"))
        core.patch_namespaced_config_map("w", NAMESPACE, {"data": {"a": "b"}})

    changing = threading.Timer(0.2, change)
    changing.start()
    follow(listed.metadata.resource_version, ("MODIFIED", "w"))
    changing.join()
    # Nobody watches while this happens.
    core.delete_namespaced_config_map("w", NAMESPACE)
    follow(watching.resource_version, ("DELETED", "w"))
    assert heard == [("ADDED", "w"), ("MODIFIED", "w"), ("DELETED", "w")], heard
    began = time.monotonic()
    ended = list(watch.Watch().stream(core.list_namespaced_config_map, NAMESPACE, timeout_seconds=1,
                                      resource_version=watching.resource_version))
    assert not [e for e in ended if e["type"] != "BOOKMARK"] and time.monotonic() - began >= 1, ended


def untyped(api):
    dyn = dynamic.DynamicClient(api)
    deployments = dyn.resources.get(api_version="apps/v1", kind="Deployment")
    assert deployments.name == "deployments" and deployments.namespaced and "scale" in deployments.subresources
    body = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "d"}},
                 "template": {"metadata": {"labels": {"app": "d"}},
                              "spec": {"containers": [{"name": "c", "image": "kedge.test/none:1"}]}}},
    }
    made = dyn.create(deployments, body=body, namespace=NAMESPACE)
    assert made.spec.strategy.type == "RollingUpdate", made
    patched = deployments.patch(body={"metadata": {"name": "d", "labels": {"a": "b"}}}, namespace=NAMESPACE,
                                content_type="application/merge-patch+json")
    assert patched.metadata.labels.a == "b", patched
    assert [d.metadata.name for d in deployments.get(namespace=NAMESPACE).items] == ["d"]
    assert deployments.scale.get(name="d", namespace=NAMESPACE).status.selector == "app=d"
    deployments.delete(name="d", namespace=NAMESPACE)
    found = dyn.resources.search(kind="Pod", api_version="v1")
    assert "log" in found[0].subresources and dyn.version["kubernetes"]["major"] == "1", found


def discovery(api):
    """What the server says it serves, by the plain documents."""
    groups = {g.name: g.preferred_version.group_version for g in client.ApisApi(api).get_api_versions().groups}
    assert groups["apps"] == "apps/v1" and groups["rbac.authorization.k8s.io"] == "rbac.authorization.k8s.io/v1", groups
    assert client.CoreApi(api).get_api_versions().versions == ["v1"]
    names = {r.name: r for r in client.CoreV1Api(api).get_api_resources().resources}
    assert names["pods"].short_names == ["po"] and names["pods"].namespaced and "watch" in names["pods"].verbs
    assert names["pods/log"].kind == "Pod" and not names["nodes"].namespaced
    assert client.VersionApi(api).get_code().major == "1"


SCRIPT = "echo started; mkdir /www; echo hello > /www/index.html; exec httpd -f -p 8080 -h /www"


def streams(core):
    probe = client.V1Probe(tcp_socket=client.V1TCPSocketAction(port=8080), period_seconds=1)
    container = client.V1Container(name="main", image="kedge.test/busybox:1", command=["sh", "-c", SCRIPT],
                                   readiness_probe=probe)
    spec = client.V1PodSpec(containers=[container], termination_grace_period_seconds=0)
    core.create_namespaced_pod(NAMESPACE, client.V1Pod(metadata=client.V1ObjectMeta(name="web"), spec=spec))
    watching = watch.Watch()
    for event in watching.stream(core.list_namespaced_pod, NAMESPACE, timeout_seconds=PATIENCE_SECONDS,
                                 field_selector="metadata.name=web"):
        if any(c.type == "Ready" and c.status == "True" for c in event["object"].status.conditions or []):
            watching.stop()
            break
    else:
        raise AssertionError("the pod did not become ready")
    assert core.read_namespaced_pod_log("web", NAMESPACE) == "started\n"
    assert next(iter(watch.Watch().stream(core.read_namespaced_pod_log, "web", NAMESPACE))) == "started"

    def run(*command, **channels):
        return stream(core.connect_get_namespaced_pod_exec, "web", NAMESPACE, command=list(command),
                      **{"stdin": False, "stdout": True, "stderr": True, "tty": False, **channels})

    assert run("echo", "a b", "c") == "a b c\n"
    both = run("sh", "-c", "echo out; echo err >&2; read line; echo got $line; exit 7", stdin=True, _preload_content=False)
    both.write_stdin("line\n")
    began = time.monotonic()
    both.run_forever(timeout=PATIENCE_SECONDS)
    # This client polls the socket: without its end it does not see that everything has come.
    assert time.monotonic() - began < 5, "the end of a command's streams is not seen"
    assert (both.read_stdout(), both.read_stderr(), both.returncode) == ("out\ngot line\n", "err\n", 7)
    nothing = run("no-such-command", _preload_content=False)
    nothing.run_forever(timeout=PATIENCE_SECONDS)
    assert json.loads(nothing.read_channel(ERROR_CHANNEL))["status"] == "Failure"
    refused_upgrade(lambda: stream(core.connect_get_namespaced_pod_exec, "none", NAMESPACE, command=["true"]))

    forward = portforward(core.connect_get_namespaced_pod_portforward, "web", NAMESPACE, ports="8080")
    port = forward.socket(8080)
    port.setblocking(True)
    port.settimeout(PATIENCE_SECONDS)
    port.sendall(b"GET / HTTP/1.0\r\n\r\n")
    answer = b""
    while piece := port.recv(4096):
        answer += piece
    assert answer.endswith(b"\r\n\r\nhello\n") and forward.error(8080) is None, answer
    port.close()
    core.delete_namespaced_pod("web", NAMESPACE)


def refused_upgrade(call):
    try:
        call()
    except ApiException as error:
        assert "404" in str(error), error
        return
    raise AssertionError("a pod that is not there was entered")


def main():
    config.load_kube_config()
    api = client.ApiClient()
    core = client.CoreV1Api(api)
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
    for name, story in [("verbs", lambda: verbs(core)), ("watches", lambda: watches(core)), ("untyped", lambda: untyped(api)),
                        ("discovery", lambda: discovery(api)), ("streams", lambda: streams(core))]:
        began = time.monotonic()
        story()
        print(f"{name}: ok in {time.monotonic() - began:.2f}s", flush=True)
    core.delete_namespace(NAMESPACE)


main()
