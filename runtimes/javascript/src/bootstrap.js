// What stands between the isolate's loop and a function's handler.
//
// Run once per isolate, before the function's modules; whatever they later do to the globals, the references taken
// here stay. Returns the functions that the loop calls.
(function (natives) {
  "use strict";
  const { done, fail, log, keepSignal, requestId, trigger, attempt, functionName } = natives;
  const { AbortController, DOMException, Deno, Error, Map, Object, String, JSON, Date } = globalThis;
  const { defineProperty, freeze } = Object;
  const { stringify } = JSON;
  const { now } = Date;
  const inspectValue = Deno.inspect;
  const uncurry = (method) => Function.prototype.call.bind(method);
  const mapGet = uncurry(Map.prototype.get);
  const mapSet = uncurry(Map.prototype.set);
  const mapDelete = uncurry(Map.prototype.delete);
  const abortController = uncurry(AbortController.prototype.abort);

  const EXCEPTION = 0, EXIT = 1, RESULT = 2;
  const DEBUG = 0, INFO = 1, WARN = 2, ERROR = 3;
  const OVER = 1;
  const EXIT_CODE = "LAGLESS_EXIT";

  let handler;

  const env = {};
  for (let i = 0; i < natives.env.length; i += 2) {
    defineProperty(env, natives.env[i], { __proto__: null, value: natives.env[i + 1], enumerable: true });
  }
  freeze(env);

  function inspect(value) {
    try {
      return inspectValue(value, { __proto__: null, colors: false, depth: 4 });
    } catch {
      return "[a value that cannot be shown]";
    }
  }

  // Reads a property that may be a hostile getter, or no text.
  function text(object, key) {
    try {
      const value = object[key];
      return typeof value === "string" ? value : undefined;
    } catch {
      return undefined;
    }
  }

  function settleWith(slot, kind, error) {
    if ((typeof error === "object" && error !== null) || typeof error === "function") {
      const message = text(error, "message");
      if (kind === EXCEPTION && text(error, "code") === EXIT_CODE) kind = EXIT;
      fail(slot, kind, text(error, "name") || "Uncaught", message ?? inspect(error), text(error, "stack") ?? "");
    } else {
      fail(slot, kind, "Uncaught", typeof error === "string" ? error : inspect(error), "");
    }
  }

  async function watch(promise, slot) {
    let value;
    try {
      value = await promise;
    } catch (error) {
      settleWith(slot, EXCEPTION, error);
      return;
    }
    done(slot, value);
  }

  // Signals of the events in hand, by slot.
  const controllers = new Map();

  function line(message, fields) {
    let written = typeof message === "string" ? message : inspect(message);
    if (fields !== undefined) {
      let json;
      try {
        json = stringify(fields);
      } catch {
        json = undefined;
      }
      written += " " + (json ?? inspect(fields));
    }
    return written;
  }

  class Context {
    #holder;
    #index;
    #slot;
    #deadline;
    #log;
    #signal;

    constructor(holder, index, slot, deadline) {
      this.#holder = holder;
      this.#index = index;
      this.#slot = slot;
      this.#deadline = deadline;
    }

    get requestId() {
      return requestId(this.#holder, this.#index);
    }

    get function() {
      return functionName;
    }

    get trigger() {
      return trigger(this.#holder, this.#index);
    }

    get attempt() {
      return attempt(this.#holder, this.#index);
    }

    get env() {
      return env;
    }

    get deadline() {
      return this.#deadline;
    }

    remainingTime() {
      const left = this.#deadline - now();
      return left > 0 ? left : 0;
    }

    get log() {
      if (this.#log === undefined) {
        const slot = this.#slot;
        this.#log = {
          debug: (message, fields) => log(DEBUG, line(message, fields), slot),
          info: (message, fields) => log(INFO, line(message, fields), slot),
          warn: (message, fields) => log(WARN, line(message, fields), slot),
          error: (message, fields) => log(ERROR, line(message, fields), slot),
        };
      }
      return this.#log;
    }

    get signal() {
      if (this.#signal === undefined) {
        const controller = new AbortController();
        this.#signal = controller.signal;
        if (keepSignal(this.#slot) === OVER) {
          abortController(controller, new DOMException("The event is over", "AbortError"));
        } else {
          mapSet(controllers, this.#slot, controller);
        }
      }
      return this.#signal;
    }
  }

  const { Console } = Deno[Deno.internal];
  defineProperty(globalThis, "console", {
    __proto__: null,
    value: new Console((message, level) => log(level, message, 0)),
    writable: true,
    configurable: true,
  });
  defineProperty(globalThis, "Deno", { __proto__: null, get: natives.deno, configurable: false, enumerable: false });
  delete globalThis.Worker;
  defineProperty(globalThis, "close", {
    __proto__: null,
    value: function close() {
      const error = new Error("the function called close()");
      error.code = EXIT_CODE;
      throw error;
    },
    writable: true,
    configurable: true,
  });

  return {
    setHandler(value) {
      handler = value;
    },
    invoke(event, holder, index, slot, deadline) {
      return handler(event, new Context(holder, index, slot, deadline));
    },
    watch,
    failWith(slot, error) {
      settleWith(slot, EXCEPTION, error);
    },
    failResult(slot, error) {
      settleWith(slot, RESULT, error);
    },
    abort(slot, name, message) {
      const controller = mapGet(controllers, slot);
      if (controller !== undefined) {
        mapDelete(controllers, slot);
        abortController(controller, new DOMException(message, name));
      }
    },
    forget(slot) {
      mapDelete(controllers, slot);
    },
  };
});
