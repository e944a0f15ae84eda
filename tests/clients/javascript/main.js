#!/usr/bin/env node
// Speaks to a cluster as programs in JavaScript do: generated clients, watches that go on, an informer, objects of any kind,
// and streams. Stops at the first answer that is not what a cluster gives, with a non-zero exit code.
import assert from 'node:assert/strict';

import { AppsV1Api, CoreV1Api, KubeConfig, KubernetesObjectApi } from '@kubernetes/client-node';

import { streams } from './streams.js';
import { untyped } from './untyped.js';
import { verbs } from './verbs.js';
import { informers, watches } from './watches.js';

const NAMESPACE = 'javascript';
const DEADLINE_MS = 200_000;

const config = new KubeConfig();
config.loadFromDefault();
const cluster = {
  config,
  namespace: NAMESPACE,
  core: config.makeApiClient(CoreV1Api),
  apps: config.makeApiClient(AppsV1Api),
  any: KubernetesObjectApi.makeApiClient(config),
};

const late = setTimeout(() => assert.fail('this takes too long'), DEADLINE_MS);
await cluster.core.createNamespace({ body: { metadata: { name: NAMESPACE } } });
for (const story of [verbs, watches, informers, untyped, streams]) {
  const began = performance.now();
  await story(cluster);
  console.log(`${story.name}: ok in ${((performance.now() - began) / 1000).toFixed(2)}s`);
}
await cluster.core.deleteNamespace({ name: NAMESPACE });
clearTimeout(late);
