import assert from 'node:assert/strict';

import { ApisApi, Health, PatchStrategy, VersionApi, loadAllYaml } from '@kubernetes/client-node';

import { refused } from './expect.js';

const MANIFESTS = `
apiVersion: v1
kind: ConfigMap
metadata: {name: any, labels: {app: any}}
data: {a: b}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: any, labels: {app: any}}
rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: any, labels: {app: any}}
spec:
  replicas: 0
  selector: {matchLabels: {app: any}}
  template:
    metadata: {labels: {app: any}}
    spec: {containers: [{name: c, image: "kedge.test/none:1"}]}
`;

/** Objects of kinds that the program learns from the server: manifests as a file has them, one client for all. */
export async function untyped({ config, any, namespace }) {
  const objects = loadAllYaml(MANIFESTS);
  for (const object of objects) {
    object.metadata.namespace = namespace;
    const applied = await any.patch(object, undefined, undefined, 'any', false, PatchStrategy.ServerSideApply);
    assert.equal(applied.kind, object.kind);
    const read = await any.read(object);
    assert.equal(read.metadata.uid, applied.metadata.uid);
    const merged = await any.patch({ ...header(object), metadata: { ...header(object).metadata, annotations: { a: 'b' } } },
      undefined, undefined, undefined, undefined, PatchStrategy.MergePatch);
    assert.equal(merged.metadata.annotations.a, 'b');
    const listed = await any.list(object.apiVersion, object.kind, namespace, undefined, undefined, undefined, undefined, 'app=any');
    assert.deepEqual(listed.items.map((item) => item.metadata.name), ['any']);
  }
  for (const object of objects) {
    await any.delete(object);
    await refused(404, 'NotFound', () => any.read(object));
  }

  const groups = (await config.makeApiClient(ApisApi).getAPIVersions()).groups;
  assert.equal(groups.find((group) => group.name === 'apps').preferredVersion.groupVersion, 'apps/v1');
  assert.equal((await config.makeApiClient(VersionApi).getCode()).major, '1');
  assert.equal(await new Health(config).readyz({}), true);
}

const header = ({ apiVersion, kind, metadata: { name, namespace } }) => ({ apiVersion, kind, metadata: { name, namespace } });
