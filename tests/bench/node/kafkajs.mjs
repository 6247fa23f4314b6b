// Node with kafkajs: parses each message of a batch, awaits the handler, commits what is handled.
import kafkajs from "kafkajs";
import { handler, Progress, settings } from "./measure.mjs";

const kafka = new kafkajs.Kafka({ clientId: "bench", brokers: settings.brokers, logLevel: kafkajs.logLevel.ERROR });
const consumer = kafka.consumer({ groupId: settings.group });
const progress = new Progress(
  (offsets) =>
    consumer.commitOffsets(
      offsets.map(([partition, offset]) => ({
        topic: settings.topic,
        partition,
        offset: (BigInt(offset) + 1n).toString(),
      })),
    ),
  () => consumer.disconnect(),
);

consumer.on(consumer.events.GROUP_JOIN, () => progress.start());
await consumer.connect();
await consumer.subscribe({ topics: [settings.topic], fromBeginning: true });
await consumer.run({
  autoCommit: false,
  eachBatch: async ({ batch, resolveOffset, heartbeat }) => {
    for (const message of batch.messages) {
      await handler({ data: JSON.parse(message.value) });
      progress.handled(batch.partition, message.offset);
      resolveOffset(message.offset);
    }
    await heartbeat();
  },
});
