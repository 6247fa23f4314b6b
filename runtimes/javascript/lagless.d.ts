/**
 * Types of Lagless functions. They exist for editors and type checkers only: import them with `import type`.
 *
 * ```ts
 * import type { Context, Event } from "lagless";
 *
 * export default async function (event: Event<{ id: string }>, ctx: Context) {
 *   ctx.log.info("order", { id: event.data.id });
 *   return { id: event.data.id };
 * }
 * ```
 */
declare module "lagless" {
  /**
   * An event in Lagless's own shape. A plain object whose values are built when they are first touched; it may be
   * changed, spread, cloned, turned into JSON and kept.
   */
  export interface Event<T = unknown> {
    /**
     * `topic/partition/offset`: the same for every attempt, different for every message. Of an AMQP message its
     * `message_id` or, without one, `queue/<hash of the body>`.
     */
    id: string;
    /** The name of the source in the configuration. */
    source: string;
    /** The name of the trigger that fired. */
    trigger: string;
    /** When the message was published, in ISO 8601; null when the broker does not say. */
    time: string | null;
    topic: string;
    partition: number;
    offset: number;
    key: Text;
    /** By name; a name that repeats has the list of its values. Those of AMQP may be any JSON. */
    headers: Record<string, Text | Text[]>;
    /** What `data` is made of; null for a tombstone. */
    content_type: string | null;
    /** How often the event has been tried before, plus one. */
    attempt: number;
    /** Of an AMQP message only. */
    properties?: Properties;
    /** The message's value: parsed JSON, a string, base64 of other bytes, or null for a tombstone. */
    data: T;
  }

  /** Where an AMQP message came from, and its properties; null where it has none. */
  export interface Properties {
    exchange: string;
    routing_key: string;
    redelivered: boolean;
    message_id: string | null;
    correlation_id: string | null;
    reply_to: string | null;
    content_type: string | null;
    content_encoding: string | null;
    type: string | null;
    app_id: string | null;
    user_id: string | null;
    expiration: string | null;
    priority: number | null;
    delivery_mode: number | null;
  }

  /** Text, or bytes that are not UTF-8, or nothing. */
  export type Text = string | { base64: string } | null;

  /** An event in the shape of CloudEvents 1.0, structured. */
  export interface CloudEvent<T = unknown> {
    specversion: "1.0";
    id: string;
    source: string;
    type: string;
    subject?: string;
    time?: string;
    datacontenttype?: string;
    data?: T;
    /** Bytes that are neither JSON nor text. */
    data_base64?: string;
    [extension: string]: unknown;
  }

  /** Writes log lines that carry the function, the trigger and the event they belong to. */
  export interface Log {
    debug(message: unknown, fields?: Record<string, unknown>): void;
    info(message: unknown, fields?: Record<string, unknown>): void;
    warn(message: unknown, fields?: Record<string, unknown>): void;
    error(message: unknown, fields?: Record<string, unknown>): void;
  }

  /** What a handler gets beside the event. */
  export interface Context {
    /** The event's id: the same for every attempt. */
    readonly requestId: string;
    /** `service.function`. */
    readonly function: string;
    /** The name of the trigger. */
    readonly trigger: string;
    /** How often the event has been tried before, plus one. */
    readonly attempt: number;
    /** The service's environment, frozen. */
    readonly env: Readonly<Record<string, string>>;
    readonly log: Log;
    /** Aborts when the event's time is over, or its batch is given up. */
    readonly signal: AbortSignal;
    /** When the event's time is over, in milliseconds since 1970. */
    readonly deadline: number;
    /** How much of the event's time is left, in milliseconds. */
    remainingTime(): number;
  }

  /** A function: its result goes to `on_success` as JSON; a throw or a rejection is a failure. */
  export type Handler<T = unknown, R = unknown> = (event: Event<T>, ctx: Context) => R | Promise<R>;
}
