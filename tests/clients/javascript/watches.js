import assert from 'node:assert/strict';

import { ADD, CONNECT, DELETE, ERROR, UPDATE, Watch, makeInformer } from '@kubernetes/client-node';

import { until } from './expect.js';
import { configMap } from './verbs.js';

/** A watch that ends by itself, and one that goes on where it ended. */
export async function watches({ config, core, namespace }) {
  const path = `/api/v1/namespaces/${namespace}/configmaps`;
  const listed = await core.listNamespacedConfigMap({ namespace });
  const heard = [];
  let version = listed.metadata.resourceVersion;
  const follow = (query) =>
    new Promise((resolve, reject) => {
      const hear = (type, object) => {
        version = object.metadata.resourceVersion;
        if (type !== 'BOOKMARK') {
          heard.push(`${type} ${object.metadata.name}`);
        }
      };
      const arguments_ = { resourceVersion: version, allowWatchBookmarks: true, ...query };
      new Watch(config).watch(path, arguments_, hear, (error) => (error ? reject(error) : resolve())).catch(reject);
    });
  const ended = follow({ timeoutSeconds: 2, labelSelector: 'app=javascript' });
  await core.createNamespacedConfigMap({ namespace, body: configMap('w') });
  await core.patchNamespacedConfigMap({ name: 'w', namespace, body: [{ op: 'add', path: '/data', value: { a: 'b' } }] });
  await ended;
  // Nobody watches while this happens.
  await core.deleteNamespacedConfigMap({ name: 'w', namespace });
  await follow({ timeoutSeconds: 1, labelSelector: 'app=javascript' });
  assert.deepEqual(heard, ['ADDED w', 'MODIFIED w', 'DELETED w']);

  // A version that is no number is refused before the watch begins.
  await assert.rejects(follow({ resourceVersion: 'x' }), (error) => error.statusCode === 400);
}

/** This client's informer: a list, then a watch that it renews, and what it holds between. */
export async function informers({ config, core, namespace }) {
  const labelSelector = 'app=javascript';
  await core.createNamespacedConfigMap({ namespace, body: configMap('before') });
  const list = () => core.listNamespacedConfigMap({ namespace, labelSelector });
  const informer = makeInformer(config, `/api/v1/namespaces/${namespace}/configmaps`, list, labelSelector);
  const heard = [];
  for (const verb of [ADD, UPDATE, DELETE]) {
    informer.on(verb, (object) => heard.push(`${verb} ${object.metadata.name}`));
  }
  let connections = 0;
  informer.on(CONNECT, () => connections++);
  let stopping = false;
  informer.on(ERROR, (error) => assert.ok(stopping, error));
  await informer.start();
  await core.createNamespacedConfigMap({ namespace, body: configMap('seen') });
  await until('the addition', () => informer.get('seen', namespace));
  await core.patchNamespacedConfigMap({ name: 'seen', namespace, body: [{ op: 'add', path: '/data', value: { a: 'b' } }] });
  await until('the change', () => informer.get('seen', namespace).data?.a === 'b');
  await core.deleteNamespacedConfigMap({ name: 'seen', namespace });
  await until('the deletion', () => !informer.get('seen', namespace));
  assert.deepEqual(heard, ['add before', 'add seen', 'update seen', 'delete seen']);
  assert.deepEqual(informer.list(namespace).map((object) => object.metadata.name), ['before']);
  assert.equal(connections, 1);
  stopping = true; // which this client tells as an error
  await informer.stop();
  await core.deleteNamespacedConfigMap({ name: 'before', namespace });
}
