import assert from 'node:assert/strict';

import { PatchStrategy, setHeaderOptions } from '@kubernetes/client-node';

import { refused } from './expect.js';

export const configMap = (name, data = {}) => ({ metadata: { name, labels: { app: 'javascript' } }, data });

const patchAs = (strategy) => setHeaderOptions('Content-Type', strategy);

/** Every verb of a generated client, each kind of patch, and the Status of what is refused. */
export async function verbs({ core, apps, namespace }) {
  const named = { name: 'one', namespace };
  const made = await core.createNamespacedConfigMap({ namespace, body: configMap('one', { k: 'v' }) });
  assert.ok(made.metadata.uid && made.metadata.creationTimestamp instanceof Date);
  const fresh = await core.readNamespacedConfigMap(named);
  assert.equal(fresh.metadata.resourceVersion, made.metadata.resourceVersion);
  fresh.data.k = 'w';
  await core.replaceNamespacedConfigMap({ ...named, body: fresh });
  const stale = await refused(409, 'Conflict', () => core.replaceNamespacedConfigMap({ ...named, body: made }));
  assert.equal(stale.details.kind, 'configmaps');

  // Without a word from the caller this client says JSON patch.
  await core.patchNamespacedConfigMap({ ...named, body: [{ op: 'add', path: '/data/json', value: '1' }] });
  await core.patchNamespacedConfigMap({ ...named, body: { data: { k: null } } }, patchAs(PatchStrategy.MergePatch));
  const applying = { ...named, fieldManager: 'javascript', body: { apiVersion: 'v1', kind: 'ConfigMap', data: { applied: '1' } } };
  await core.patchNamespacedConfigMap(applying, patchAs(PatchStrategy.ServerSideApply));
  const taking = { ...applying, body: { ...applying.body, data: { applied: '1', json: '2' } } };
  const conflict = await refused(409, 'Conflict', () =>
    core.patchNamespacedConfigMap(taking, patchAs(PatchStrategy.ServerSideApply)));
  assert.deepEqual(conflict.details.causes.map((c) => [c.reason, c.field]), [['FieldManagerConflict', '.data.json']]);
  const forced = await core.patchNamespacedConfigMap({ ...taking, force: true }, patchAs(PatchStrategy.ServerSideApply));
  assert.deepEqual(forced.data, { json: '2', applied: '1' });
  assert.ok(forced.metadata.managedFields.some((f) => f.manager === 'javascript' && f.operation === 'Apply'));

  const template = {
    metadata: { labels: { app: 'js' } },
    spec: { containers: [{ name: 'a', image: 'kedge.test/none:1' }] },
  };
  const body = { metadata: { name: 'd' }, spec: { replicas: 0, selector: { matchLabels: { app: 'js' } }, template } };
  const deployment = await apps.createNamespacedDeployment({ namespace, body });
  assert.equal(deployment.spec.strategy.type, 'RollingUpdate');
  const second = { spec: { template: { spec: { containers: [{ name: 'b', image: 'kedge.test/none:2' }] } } } };
  const both = await apps.patchNamespacedDeployment({ name: 'd', namespace, body: second },
    patchAs(PatchStrategy.StrategicMergePatch));
  assert.deepEqual(both.spec.template.spec.containers.map((c) => c.name).sort(), ['a', 'b']);
  const scale = await apps.readNamespacedDeploymentScale({ name: 'd', namespace });
  assert.deepEqual([scale.spec.replicas ?? 0, scale.status.selector], [0, 'app=js']);
  await apps.deleteNamespacedDeployment({ name: 'd', namespace, propagationPolicy: 'Foreground' });

  for (let i = 0; i < 5; i++) {
    await core.createNamespacedConfigMap({ namespace, body: configMap(`page-${i}`) });
  }
  const names = [];
  let _continue;
  do {
    const page = await core.listNamespacedConfigMap({ namespace, limit: 2, labelSelector: 'app=javascript', _continue });
    assert.ok(page.items.length <= 2);
    names.push(...page.items.map((item) => item.metadata.name));
    _continue = page.metadata._continue;
  } while (_continue);
  assert.deepEqual(names, ['one', 'page-0', 'page-1', 'page-2', 'page-3', 'page-4']);

  const dry = await core.createNamespacedSecret({ namespace, dryRun: 'All', body: { metadata: { name: 's' }, stringData: { a: 'x' } } });
  assert.equal(dry.data.a, Buffer.from('x').toString('base64'));
  await refused(404, 'NotFound', () => core.readNamespacedSecret({ name: 's', namespace }));
  await refused(409, 'AlreadyExists', () => core.createNamespacedConfigMap({ namespace, body: configMap('one') }));
  const invalid = await refused(422, 'Invalid', () => core.createNamespacedConfigMap({ namespace, body: configMap('Not_A_Name') }));
  assert.equal(invalid.details.causes[0].field, 'metadata.name');
  await refused(400, 'BadRequest', () => core.listNamespacedConfigMap({ namespace, labelSelector: 'a in b' }));
  await core.deleteCollectionNamespacedConfigMap({ namespace, labelSelector: 'app=javascript' });
  const left = await core.listNamespacedConfigMap({ namespace, labelSelector: 'app=javascript' });
  assert.deepEqual(left.items, []);
}
