// Node with amqplib: parses each message, awaits the handler, acknowledges 250 at a time.
import amqplib from "amqplib";
import { handler, PREFETCH, settings, start } from "./queue.mjs";

const ACK_EACH = 250;

const connection = await amqplib.connect(settings.url);
const channel = await connection.createChannel();
await channel.prefetch(PREFETCH);
const report = start();
let handled = 0;
let last = Promise.resolve();

async function take(message) {
  await handler({ data: JSON.parse(message.content) });
  handled += 1;
  if (handled % ACK_EACH === 0 || handled === settings.messages) channel.ack(message, true);
  if (handled === settings.messages) {
    const { messageCount } = await channel.checkQueue(settings.queue);
    report(messageCount);
    await connection.close();
  }
}

// One after the other, as a queue's messages come.
await channel.consume(settings.queue, (message) => {
  last = last.then(() => take(message));
});
