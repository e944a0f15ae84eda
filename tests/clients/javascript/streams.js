import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough, Readable, Writable } from 'node:stream';

import { Attach, Cp, Exec, Log, PortForward, topNodes } from '@kubernetes/client-node';

import { PATIENCE_MS, refused, until } from './expect.js';

const SCRIPT = 'echo started; mkdir /www; echo hello > /www/index.html; httpd -p 8080 -h /www; while read -r line; do echo "heard $line"; done';

/** Keeps what is written to it. */
class Sink extends Writable {
  pieces = [];

  _write(piece, _encoding, done) {
    this.pieces.push(Buffer.from(piece));
    done();
  }

  get bytes() {
    return Buffer.concat(this.pieces);
  }

  get text() {
    return this.bytes.toString();
  }
}

/** A pod's logs, commands in it, files, its standard input and a port of it. */
export async function streams(cluster) {
  const { core, namespace } = cluster;
  const probe = { tcpSocket: { port: 8080 }, periodSeconds: 1 };
  const main = { name: 'main', image: 'kedge.test/busybox:1', command: ['sh', '-c', SCRIPT], stdin: true, readinessProbe: probe };
  const spec = { containers: [main], terminationGracePeriodSeconds: 0 };
  await core.createNamespacedPod({ namespace, body: { metadata: { name: 'web' }, spec } });
  await until('a pod that is ready', async () => {
    const { status } = await core.readNamespacedPodStatus({ name: 'web', namespace });
    return status.conditions?.some((c) => c.type === 'Ready' && c.status === 'True');
  });
  await logs(cluster);
  await commands(cluster);
  await files(cluster);
  await attached(cluster);
  await port(cluster);
  const [node] = await topNodes(core);
  assert.ok(node.CPU.Capacity > 0 && node.Memory.Capacity > 0);
  await core.deleteNamespacedPod({ name: 'web', namespace });
  await until('the pod to be gone', async () => !(await core.listNamespacedPod({ namespace })).items.length);
}

async function logs({ config, core, namespace }) {
  assert.equal(await core.readNamespacedPodLog({ name: 'web', namespace }), 'started\n');
  const followed = new Sink();
  const following = await new Log(config).log(namespace, 'web', 'main', followed, { follow: true, timestamps: true });
  await until('the log that is followed', () => / started\n$/.test(followed.text));
  following.abort();
  const refusal = await refused(404, 'NotFound', () => core.readNamespacedPodLog({ name: 'none', namespace }));
  assert.equal(refusal.message, 'pods "none" not found');
}

/** Runs a command to its end; what came of it, and its Status. */
async function run({ config, namespace }, command, { stdin = null, tty = false } = {}) {
  const [out, err] = [new Sink(), new Sink()];
  const status = await new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error(`${command} does not end`)), PATIENCE_MS).unref();
    new Exec(config).exec(namespace, 'web', 'main', command, out, tty ? null : err, stdin, tty, resolve).catch(reject);
  });
  return { out: out.text, err: err.text, bytes: out.bytes, status };
}

async function commands(cluster) {
  assert.equal((await run(cluster, ['echo', 'a b', 'c'])).out, 'a b c\n');
  const both = await run(cluster, ['sh', '-c', 'echo out; echo err >&2; exit 7']);
  assert.deepEqual([both.out, both.err, both.status.status, both.status.reason], ['out\n', 'err\n', 'Failure', 'NonZeroExitCode']);
  assert.deepEqual(both.status.details.causes, [{ reason: 'ExitCode', message: '7' }]);
  // All of standard input arrives, then its end; all that comes back is the same.
  const payload = Buffer.alloc(1 << 20, '0123456789abcdef');
  const echoed = await run(cluster, ['cat'], { stdin: Readable.from([payload.subarray(0, 1 << 19), payload.subarray(1 << 19)]) });
  assert.ok(echoed.bytes.equals(payload), `${echoed.bytes.length} of ${payload.length} bytes came back`);
  assert.equal(echoed.status.status, 'Success');
  assert.match((await run(cluster, ['tty'], { tty: true })).out, /^\/dev\/pts\/\d+\r\n$/);
  assert.equal((await run(cluster, ['no-such-command'])).status.status, 'Failure');
  await assert.rejects(new Exec(cluster.config).exec(cluster.namespace, 'none', 'main', ['true'], new Sink(), null, null, false),
    (error) => /404/.test(error.message));
}

/** Files go in and come out as archives that the container's tar reads and writes. */
async function files(cluster) {
  const folder = await mkdtemp(join(tmpdir(), 'javascript-'));
  await writeFile(join(folder, 'file'), 'content');
  const copy = new Cp(cluster.config);
  await copy.cpToPod(cluster.namespace, 'web', 'main', folder, '/www');
  await until('the file in the container', async () => (await run(cluster, ['cat', '/www/file'])).out === 'content');
  await rm(folder, { recursive: true });
  const taken = await run(cluster, ['tar', 'cf', '-', '-C', '/www', 'file']);
  assert.equal(taken.bytes.subarray(0, 4).toString(), 'file');
  assert.equal(taken.bytes.length % 512, 0);
}

async function attached({ config, namespace }) {
  const [out, input] = [new Sink(), new PassThrough()];
  const socket = await new Attach(config).attach(namespace, 'web', 'main', out, new Sink(), input, false);
  input.write('me\n');
  await until('an answer from the container', () => out.text.endsWith('heard me\n'));
  socket.close();
}

async function port({ config, namespace }) {
  const [out, problems, input] = [new Sink(), new Sink(), new PassThrough()];
  const socket = await new PortForward(config).portForward(namespace, 'web', [8080], out, problems, input);
  input.write('GET / HTTP/1.0\r\n\r\n');
  await until('the page', () => out.text.endsWith('\r\n\r\nhello\n'));
  assert.equal(problems.text, '');
  socket.close();
}
