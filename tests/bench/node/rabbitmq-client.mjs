// Node with rabbitmq-client: parses each message (the client does, by its content type) and awaits the handler; the
// client acknowledges each message by itself.
import { Connection } from "rabbitmq-client";
import { handler, PREFETCH, settings, start } from "./queue.mjs";

const connection = new Connection(settings.url);
await connection.onConnect(10_000);
const report = start();
let handled = 0;

const consumer = connection.createConsumer(
  { queue: settings.queue, queueOptions: { passive: true }, qos: { prefetchCount: PREFETCH } },
  async (message) => {
    await handler({ data: message.body });
    handled += 1;
    // The client acknowledges after this has returned.
    if (handled === settings.messages) setImmediate(finish);
  },
);

async function finish() {
  // Waits for the last acknowledgement, then closes the channel in order, which the server answers.
  await consumer.close();
  const { messageCount } = await connection.queueDeclare({ queue: settings.queue, passive: true });
  report(messageCount);
  await connection.close();
}
