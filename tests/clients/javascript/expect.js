// What every story needs: patience, and answers that are refusals.
import assert from 'node:assert/strict';

import { ApiException } from '@kubernetes/client-node';

/** How long anything may take that the cluster does on its own. */
export const PATIENCE_MS = 60_000;

/** Waits until `look` gives a truthy value, and gives it. */
export async function until(what, look) {
  const end = performance.now() + PATIENCE_MS;
  for (;;) {
    const found = await look();
    if (found) {
      return found;
    }
    assert.ok(performance.now() < end, `not in time: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** The Status that an API call ends with, which has to be this one. */
export async function refused(code, reason, call) {
  try {
    await call();
  } catch (error) {
    assert.ok(error instanceof ApiException, error);
    const status = typeof error.body === 'string' ? JSON.parse(error.body) : error.body;
    assert.deepEqual([error.code, status.code, status.reason], [code, code, reason]);
    return status;
  }
  return assert.fail(`${reason} was expected`);
}
